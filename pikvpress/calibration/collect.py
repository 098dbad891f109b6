"""One situation, measured: a file of what fitting needs to know of every layer.

A file holds one context, and fitting reads one layer of it at a time: memory stays that of one context, and an
interrupted calibration goes on with the next file.
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
from pikvpress.examination import Examination, examine
from pikvpress.experts import Expert, LayerView

RATIOS = (0.5, 0.75, 0.875)
GRADIENT_SAMPLES = 2


@torch.no_grad()
def collect(model: PreTrainedModel, situation: Situation, experts: Sequence[Expert], seed: int) -> dict[str, Any]:
    """Measure a situation.

    Parameters
    ----------
    model : PreTrainedModel
        Left as it was found.
    situation : Situation
        A context and its futures.
    experts : sequence of Expert
        Told of the model before.
    seed : int
        Of the labels that gradients are taken for.

    Returns
    -------
    dict of torch.Tensor
        By layer i, on the CPU, without batch dimension: "i/keys", "i/values" (kv_heads, keys, head_dim); and, unless
        the layer attends a sliding window, "i/ranks" (ratios, kv_heads, experts, keys), int32, the ranks times
        2 (keys - 1), "i/features" (ratios, kv_heads, features), and of each future j "i/j/queries", "i/j/keys",
        "i/j/values", "i/j/gradients".
    """
    generator = torch.Generator().manual_seed(seed)
    cache, found = examined(model, situation.context, experts)
    tensors: dict[str, torch.Tensor] = {}
    for index in range(len(cache)):
        keys, values = extract_keys_and_values(cache, index)
        tensors |= {f"{index}/keys": _stored(keys[0]), f"{index}/values": _stored(values[0])}
    for index, by_ratio in found.items():
        scale = 2 * (len(situation.context) - 1)
        tensors |= {
            f"{index}/ranks": torch.stack([one.ranked[0].mul(scale).round().int() for one in by_ratio]).cpu(),
            f"{index}/features": torch.stack([one.features[0] for one in by_ratio]).cpu(),
        }
    for number, future in enumerate(situation.futures):
        for index, layer in enumerate(read_future(model, cache, future, GRADIENT_SAMPLES, generator)):
            if index in found:
                tensors |= {
                    f"{index}/{number}/queries": _stored(layer.queries),
                    f"{index}/{number}/keys": _stored(layer.keys),
                    f"{index}/{number}/values": _stored(layer.values),
                    f"{index}/{number}/gradients": layer.gradients.float().cpu(),
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
        hidden_states = kwargs["hidden_states"]
        view = LayerView(module, hidden_states)
        found[index] = [examine(experts, view, hidden_states, keys, values, None, kwargs, ratio) for ratio in ratios]
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


def save(path: Path, tensors: dict[str, torch.Tensor], kind: str, scaling: Sequence[float], seconds: float) -> None:
    """Write a measured situation, and how long measuring took, whole or not at all."""
    partial = path.with_suffix(".partial")
    metadata = {"kind": kind, "seconds": repr(seconds), "scaling": ",".join(repr(float(f)) for f in scaling)}
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata=metadata)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class LayerRecord:
    """One layer of a measured situation.

    Parameters
    ----------
    reading : Reading
        How the futures read the context.
    ranks : torch.Tensor
        Of every expert's scores, from 0 to 1, float32, shape (ratios, kv_heads, experts, keys).
    features : torch.Tensor
        Head features, shape (ratios, kv_heads, features).
    """

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
        A file that `save` wrote.
    experts : sequence of int, optional
        Show only these of the experts that were measured.

    Raises
    ------
    ValueError
        If the file is not whole.
    """

    def __init__(self, path: Path, experts: Sequence[int] | None = None):
        self._experts = list(experts) if experts is not None else None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                self._names = set(file.keys())
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a whole measurement ({error}): delete it to have it made anew") from error
        self._path, self.kind, self.seconds = path, metadata["kind"], float(metadata["seconds"])
        self._scaling = [float(factor) for factor in metadata["scaling"].split(",")]
        self.layers = sorted(int(name.split("/")[0]) for name in self._names if name.endswith("/ranks"))

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
            ranks, features = self._seen(file, index, keys.shape[1])
        reading = read(keys, values, read_by, self._scaling[index], most_rows)  # type: ignore[arg-type]
        return LayerRecord(reading, ranks, features)

    def context(self, device: torch.device, dtype: torch.dtype) -> Context:
        """Read the full cache, and what the router sees of all layers."""
        cache, layers, num_keys = DynamicCache(), {}, 0
        with safe_open(self._path, framework="pt", device=str(device)) as file:
            for index in range(len(self._scaling)):
                states = [file.get_tensor(f"{index}/{name}").to(dtype).unsqueeze(0) for name in ("keys", "values")]
                cache.update(states[0], states[1], index)
                num_keys = states[0].shape[2]
                if index in self.layers:
                    ranks, features = self._seen(file, index, num_keys)
                    layers[index] = (ranks.to(device), features.to(device))
        return Context(cache, layers, num_keys)

    def _seen(self, file: Any, index: int, num_keys: int) -> tuple[torch.Tensor, torch.Tensor]:
        ranks = file.get_tensor(f"{index}/ranks").float() / (2 * (num_keys - 1))
        features = file.get_tensor(f"{index}/features")
        if self._experts is not None:
            features = of_experts(features, self._experts, ranks.shape[2])
            ranks = ranks[:, :, self._experts]
        return ranks, features
