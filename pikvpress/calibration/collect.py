"""One situation, measured: files of what fitting needs to know of every layer.

A file holds one context, and fitting reads one layer of it at a time: memory stays that of one context, and an
interrupted calibration goes on with the next file. What experts say of the context stands in a second file: one of them
is fitted on the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from kvpress.utils import extract_keys_and_values
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import DynamicCache, PreTrainedModel

from pikvpress import models
from pikvpress.calibration.measure import Reading, read
from pikvpress.calibration.situations import Situation
from pikvpress.calibration.teacher import read_future
from pikvpress.experts import Expert, LayerInput
from pikvpress.routing.examination import Examination, examine

RATIOS = (0.5, 0.75, 0.875)
GRADIENT_SAMPLES = 2


@torch.no_grad()
def collect(model: PreTrainedModel, situation: Situation, seed: int) -> dict[str, Any]:
    """Measure how the futures of a situation read its context.

    Parameters
    ----------
    model : PreTrainedModel
        Left as it was found.
    situation : Situation
        A context and its futures.
    seed : int
        Of the labels that gradients are taken for.

    Returns
    -------
    dict of torch.Tensor
        By layer i, on the CPU, without batch dimension: "i/keys", "i/values" (kv_heads, keys, head_dim); and, unless
        the layer attends a sliding window, of each future j "i/j/queries", "i/j/keys", "i/j/values", "i/j/gradients".
    """
    generator = torch.Generator().manual_seed(seed)
    cache = DynamicCache()
    model.model(input_ids=torch.tensor([list(situation.context)], device=model.device), past_key_values=cache)
    tensors: dict[str, torch.Tensor] = {}
    for index in range(len(cache)):
        keys, values = extract_keys_and_values(cache, index)
        tensors |= {f"{index}/keys": _stored(keys[0]), f"{index}/values": _stored(values[0])}
    slides = [models.is_sliding(layer, cache.layers[i]) for i, layer in enumerate(models.attention_layers(model))]
    for number, future in enumerate(situation.futures):
        for index, layer in enumerate(read_future(model, cache, future, GRADIENT_SAMPLES, generator)):
            if not slides[index]:
                tensors |= {
                    f"{index}/{number}/queries": _stored(layer.queries),
                    f"{index}/{number}/keys": _stored(layer.keys),
                    f"{index}/{number}/values": _stored(layer.values),
                    f"{index}/{number}/gradients": layer.gradients.float().cpu(),
                }
    return tensors


def look(model: PreTrainedModel, situation: Situation, experts: Sequence[Expert]) -> dict[str, Any]:
    """Let experts look at a situation's context.

    Parameters
    ----------
    model : PreTrainedModel
        Left as it was found.
    situation : Situation
        A context and its futures.
    experts : sequence of Expert
        Told of the model before.

    Returns
    -------
    dict of torch.Tensor
        By layer i that is not sliding, on the CPU, without batch dimension: "i/ranks" (ratios, kv_heads, experts,
        keys), int32, the ranks times 2 (keys - 1), and "i/features" (ratios, kv_heads, features).
    """
    _, found = examined(model, situation.context, experts)
    scale = 2 * (len(situation.context) - 1)
    tensors: dict[str, torch.Tensor] = {}
    for index, by_ratio in found.items():
        tensors |= {
            f"{index}/ranks": torch.stack([one.ranked[0].mul(scale).round().int() for one in by_ratio]).cpu(),
            f"{index}/features": torch.stack([one.features[0] for one in by_ratio]).cpu(),
        }
    return tensors


@torch.no_grad()
def examined(
    model: PreTrainedModel, context: Sequence[int], experts: Sequence[Expert], ratios: Sequence[float] = RATIOS
) -> tuple[DynamicCache, dict[int, list[Examination]]]:
    """Prefill a context and examine its layers at each of some ratios; sliding ones are left out.

    Raises
    ------
    ValueError
        If the context is too short for an expert.
    """
    cache, found = DynamicCache(), {}

    def look(module: models.Attention, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        index = module.layer_idx
        if models.is_sliding(module, cache.layers[index]):
            return
        keys, values = extract_keys_and_values(cache, index)
        layer = LayerInput(module, kwargs["hidden_states"], keys, values, kwargs=kwargs)
        found[index] = [examine(experts, layer, ratio) for ratio in ratios]
        short = [expert.name for i, expert in enumerate(experts) if i not in found[index][0].available]
        if short:
            raise ValueError(
                f"contexts of {len(context)} tokens are too short for {', '.join(short)}: use longer contexts, or "
                "leave them out"
            )

    handles = [layer.register_forward_hook(look, with_kwargs=True) for layer in models.attention_layers(model)]
    with models.hooked(handles), models.rotary_at_hand(model):
        model.model(input_ids=torch.tensor([list(context)], device=model.device), past_key_values=cache)
    return cache, found


def _stored(states: torch.Tensor) -> torch.Tensor:
    """Return states in half the bytes: what they cost a fit is below the noise of sampling labels."""
    kind = torch.bfloat16 if states.dtype == torch.bfloat16 else torch.float16
    return states.to("cpu", kind).contiguous()


def save(path: Path, tensors: dict[str, torch.Tensor], **about: str) -> None:
    """Write what was measured, whole or not at all."""
    partial = path.with_suffix(".partial")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata=about)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def described(kind: str, scaling: Sequence[float], seconds: float) -> dict[str, str]:
    """Return what stands beside the tensors of `collect`: kind, factors on each layer's logits, how long it took."""
    return {"kind": kind, "seconds": repr(seconds), "scaling": ",".join(repr(float(factor)) for factor in scaling)}


@dataclass(frozen=True)
class LayerRecord:
    """One layer of a measured situation.

    Parameters
    ----------
    keys : torch.Tensor
        Of the context, rotated, shape (kv_heads, keys, head_dim).
    reading : Reading
        How the futures read the context.
    ranks : torch.Tensor
        Of every expert's scores, from 0 to 1, float32, shape (ratios, kv_heads, experts, keys); of no expert as long as
        none has looked.
    features : torch.Tensor
        Head features, shape (ratios, kv_heads, features).
    """

    keys: torch.Tensor
    reading: Reading
    ranks: torch.Tensor
    features: torch.Tensor


@dataclass(frozen=True)
class Context:
    """A prefilled context and what the router sees of it.

    Parameters
    ----------
    cache : DynamicCache
        Full.
    layers : dict of int to (torch.Tensor, torch.Tensor)
        By layer: ranks (ratios, kv_heads, experts, keys) and features (ratios, kv_heads, features).
    num_keys : int
        Tokens of the context.
    """

    cache: DynamicCache
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]]
    num_keys: int

    def of(self, experts: Sequence[int]) -> Context:
        """Return what a router of some of the experts sees."""
        layers = {
            index: (ranks[:, :, list(experts)], of_experts(features, experts, ranks.shape[2]))
            for index, (ranks, features) in self.layers.items()
        }
        return Context(self.cache, layers, self.num_keys)


def of_experts(features: torch.Tensor, experts: Sequence[int], num_experts: int) -> torch.Tensor:
    """Return head features as they would be with some of the experts only: an expert's are relative to the mean."""
    columns = torch.tensor(list(experts), device=features.device)
    error, missed = features[..., columns], features[..., num_experts + columns]
    statistics = features[..., 2 * num_experts :]
    relative = [part - part.mean(dim=-1, keepdim=True) for part in (error, missed)]
    return torch.cat([*relative, statistics], dim=-1)


class Record:
    """A measured situation on disk.

    Parameters
    ----------
    path : Path
        A file that `save` wrote of what `collect` found.
    seen : Path, optional
        One of what `look` found.
    experts : sequence of int, optional
        Show only these of the experts that were measured.

    Raises
    ------
    ValueError
        If a file is not whole.
    """

    def __init__(self, path: Path, seen: Path | None = None, experts: Sequence[int] | None = None):
        self._experts = list(experts) if experts is not None else None
        self._path, self._seen_path = path, seen
        self._names, metadata = _contents(path)
        if seen is not None:
            _contents(seen)
        self.kind, self.seconds = metadata["kind"], float(metadata["seconds"])
        self._scaling = [float(factor) for factor in metadata["scaling"].split(",")]
        self.layers = sorted(int(name.split("/")[0]) for name in self._names if name.endswith("/0/queries"))

    def layer(
        self,
        index: int,
        most_rows: int | None = None,
        stored: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> LayerRecord:
        """Read one layer, with all queries of a head or so many (see `measure.read`), its keys changed or not."""
        with safe_open(self._path, framework="pt") as file:

            def tensor(name: str) -> torch.Tensor:
                return file.get_tensor(f"{index}/{name}")

            futures = len({name for name in self._names if name.startswith(f"{index}/") and "/queries" in name})
            keys, values = tensor("keys").float(), tensor("values").float()
            keys = keys if stored is None else stored(keys)
            parts = ("queries", "keys", "values", "gradients")
            read_by = [tuple(tensor(f"{number}/{part}").float() for part in parts) for number in range(futures)]
        reading = read(keys, values, read_by, self._scaling[index], most_rows)  # type: ignore[arg-type]
        return LayerRecord(keys, reading, *self._seen([index], keys.shape[1], torch.device("cpu"))[index])

    def context(self, device: torch.device, dtype: torch.dtype) -> Context:
        """Read the full cache, and what the router sees of all layers."""
        cache, num_keys = DynamicCache(), 0
        with safe_open(self._path, framework="pt", device=str(device)) as file:
            for index in range(len(self._scaling)):
                states = [file.get_tensor(f"{index}/{name}").to(dtype).unsqueeze(0) for name in ("keys", "values")]
                cache.update(states[0], states[1], index)
                num_keys = states[0].shape[2] if index in self.layers else num_keys
        return Context(cache, self._seen(self.layers, num_keys, device), num_keys)

    def _seen(
        self, layers: Sequence[int], num_keys: int, device: torch.device
    ) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        if self._seen_path is None:
            none = torch.zeros(len(RATIOS), 0, 0, num_keys), torch.zeros(len(RATIOS), 0, 0)
            return dict.fromkeys(layers, none)
        found = {}
        with safe_open(self._seen_path, framework="pt", device=str(device)) as file:
            for index in layers:
                ranks = file.get_tensor(f"{index}/ranks").float() / (2 * (num_keys - 1))
                features = file.get_tensor(f"{index}/features")
                if self._experts is not None:
                    features = of_experts(features, self._experts, ranks.shape[2])
                    ranks = ranks[:, :, self._experts]
                found[index] = ranks, features
        return found


def _contents(path: Path) -> tuple[set[str], dict[str, str]]:
    """Return the names of a file's tensors, and what stands beside them."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys()), dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole measurement ({error}): delete it to have it made anew") from error
