"""A whole cache in a file, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.cache.calibrated import Bases
from pikvpress.cache.choice import of_layer
from pikvpress.cache.codec import Codec
from pikvpress.cache.layer import PiKVLayer
from pikvpress.cache.readers import READERS
from pikvpress.cache.saving.about import PLAN, digest_of_ids, plan_piece
from pikvpress.cache.saving.codecs import CodecTable, bases_pieces, restored, restored_bases, restored_choice
from pikvpress.cache.saving.contents import LayerContents, name_of, restored_contents
from pikvpress.cache.saving.file import DTYPES, MappedFile, Pieces, well_formed, write_sections
from pikvpress.cache.saving.layer import SavedLayer
from pikvpress.cache.saving.schedules import SCHEDULE, described_schedule, restored_schedule
from pikvpress.cache.saving.settings import settings_of
from pikvpress.cache.schedule import Schedule
from pikvpress.model_digest import ModelDigest, model_of

if TYPE_CHECKING:
    from kvpress import BasePress

OUTPUT = "output"


@dataclass(frozen=True)
class CacheState:
    """Everything that a cache holds.

    Parameters
    ----------
    layers : list of PiKVLayer
        The layers.
    codecs : pair of Codec or Bases
        The user's choices for keys and values.
    window : int
        Number of most recent entries that stay exact if a codec is not exact.
    before : list of int
        Lengths of the layers before the latest forward.
    reached : int
        The last layer that it reached.
    schedule : Schedule, optional
        How the cache stays within a ceiling.
    output : torch.Tensor, optional
        What the model's decoder returned for the last token, shape (batch, 1, hidden).
    """

    layers: list[PiKVLayer]
    codecs: tuple[Codec | Bases, Codec | Bases]
    window: int
    before: list[int]
    reached: int
    schedule: Schedule | None = None
    output: torch.Tensor | None = None


def save(
    path: Path,
    state: CacheState,
    model: PreTrainedModel | None,
    input_ids: torch.Tensor | None,
    press: BasePress | None,
) -> None:
    """Write a cache to a file; see `PiKVCache.save`."""
    for index, layer in enumerate(state.layers):
        if not isinstance(layer, PiKVLayer):
            raise ValueError(f"layer {index} is a {type(layer).__name__} of a press at work: save the cache afterwards")
    digest = asdict(ModelDigest.of(_reader(state.layers) if model is None else model))
    table, sections = CodecTable(state.codecs), dict[str, Sequence[torch.Tensor]]()
    described = []
    for index, bases in enumerate(table.bases):
        one, sections[f"bases.{index}"] = bases_pieces(bases)
        described.append(one)
    contents: dict[str, Any] = {
        "model": digest,
        "input_ids": None if input_ids is None else digest_of_ids(input_ids),
        "press": None if press is None else settings_of(press),
        "choices": [table.choice(choice) for choice in state.codecs],
        "window": state.window,
        "before": state.before,
        "reached": state.reached,
        "bases": described,
        "layers": [*_described_layers(state.layers, table, sections)],
        "codecs": table.rows,
    }
    plan = getattr(press, "plan", None)
    if plan is not None:
        sections[PLAN] = [plan_piece(plan)]
    contents["plan"] = None if plan is None else len(sections[PLAN][0])
    contents[SCHEDULE] = None
    if state.schedule is not None:
        contents[SCHEDULE], sections[SCHEDULE] = described_schedule(state.schedule)
    contents[OUTPUT] = None if state.output is None else [name_of(state.output.dtype), *state.output.shape]
    if state.output is not None:
        sections[OUTPUT] = [state.output]
    write_sections(path, sections, contents)


def _reader(layers: Sequence[PiKVLayer]) -> PreTrainedModel:
    found = [module for module in map(READERS.last_reader, layers) if module is not None]
    if not found:
        raise ValueError("it is not known which model filled this cache: pass it, cache.save(path, model)")
    return model_of(found[0])


def _described_layers(
    layers: Sequence[PiKVLayer], table: CodecTable, sections: dict[str, Sequence[torch.Tensor]]
) -> Iterator[dict[str, Any] | None]:
    """Yield what differs from the layer before, which is little; add a section for each layer."""
    before: dict[str, Any] = {}
    for index, layer in enumerate(layers):
        if not layer.is_initialized:
            yield None
            continue
        contents = LayerContents.of(layer)
        waits = layer.packs and not (contents.entries.are_compressed or contents.attributes["_slides"])
        if waits and contents.entries.length > 0:
            raise ValueError("a press will read the context again before it is packed: save the cache after its `with`")
        described, sections[f"layer.{index}"] = contents.described(table)
        yield {name: value for name, value in described.items() if name not in before or before[name] != value}
        before = described


def load(path: Path, model: PreTrainedModel, input_ids: torch.Tensor | None, verify: bool) -> CacheState:
    """Read a cache from a file; see `PiKVCache.load`."""
    file = MappedFile(path)
    digest = ModelDigest.of(model)
    with well_formed(path):
        differing = digest.differences(ModelDigest(**file.contents["model"]))
    if differing:
        raise ValueError(
            f"{path} was saved with another model (other {differing}): load it with the model that filled it, in the "
            "same data type, or read the context again"
        )
    if input_ids is not None:
        _check_ids(file, input_ids)
    with well_formed(path):
        state = _restored(file, model)
    if verify:
        for layer in state.layers:
            if isinstance(layer, SavedLayer):
                layer.read()
    return state


def _check_ids(file: MappedFile, input_ids: torch.Tensor) -> None:
    saved = file.contents.get("input_ids")
    if saved is None:
        raise ValueError(f"{file.path} was saved without token ids, so they cannot be compared: load it without them")
    if saved != digest_of_ids(input_ids):
        raise ValueError(f"{file.path} is the cache of other token ids: of another text, or by another tokenizer")


def _restored(file: MappedFile, model: PreTrainedModel) -> CacheState:
    contents = file.contents
    all_bases = []
    for index, described in enumerate(contents["bases"]):
        file.verify(f"bases.{index}")
        all_bases.append(restored_bases(described, Pieces(file, f"bases.{index}")))
    keys, values = (restored_choice(row, all_bases) for row in contents["choices"])
    codecs, window = [restored(row, all_bases) for row in contents["codecs"]], int(contents["window"])
    modules = models.attention_layers(model)
    schedule = restored_schedule(file, modules[0])
    layers: list[PiKVLayer] = []
    whole: Mapping[str, Any] = {}
    for index, described in enumerate(contents["layers"]):
        choice, section = of_layer((keys, values), index), f"layer.{index}"
        if described is None:
            layers.append(PiKVLayer(*choice, window))
            layers[-1].keeper = layers[-1].keeper_for(schedule, index)
            continue
        whole = {**whole, **described}
        held = restored_contents(whole, Pieces(file, section), codecs, schedule, index)
        device = next(modules[index].parameters()).device
        layers.append(SavedLayer(choice, window, held, partial(file.verify, section), device))
        READERS.remember(modules[index], layers[-1])
    before, reached = list(contents["before"]), int(contents["reached"])
    return CacheState(layers, (keys, values), window, before, reached, schedule, _output(file))


def _output(file: MappedFile) -> torch.Tensor | None:
    described = file.contents.get(OUTPUT)
    if described is None:
        return None
    file.verify(OUTPUT)
    dtype, *shape = described
    return file.tensor(OUTPUT, 0, DTYPES[dtype], shape)
