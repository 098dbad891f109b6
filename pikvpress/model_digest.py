"""Which model a file belongs to: digests of its configuration and of every weight."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pikvpress import models

# Settings that change neither keys nor values, but differ between versions of transformers or ways to load a model.
NEUTRAL = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "return_dict"}
NEUTRAL |= {"output_attentions", "output_hidden_states", "id2label", "label2id"}


@dataclass(frozen=True)
class ModelDigest:
    """What a model is, to the last bit of its weights.

    Attributes
    ----------
    architecture : str
        Name of its class.
    config : str
        SHA-256 of its configuration, without settings that change no numbers, and of which adapters are in use.
    weights : str
        SHA-256 of the names, data types, shapes and bytes of all parameters and stored buffers.
    """

    architecture: str
    config: str
    weights: str

    @staticmethod
    def of(model: PreTrainedModel) -> ModelDigest:
        """Return the digest of a model.

        Every byte of the weights is read once per model object: about 1 GB/s for each of at most 8 threads. Later calls
        compare the version counters that torch increases when a tensor is changed in place, and read the weights again
        only if one differs. Changes through ``.data``, which torch does not count, are not noticed after the first
        call.

        Raises
        ------
        TypeError
            If ``model`` is not a model of transformers.
        ValueError
            If weights are not in memory (on the meta device).
        """
        model = models.unwrapped(model)
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"model must be a model of transformers, got {type(model).__name__}")
        known = _WEIGHTS.get(model)
        tensors = dict(_stored(model))
        if known is None or not known.holds(tensors):
            known = _WEIGHTS[model] = _Known(tensors)
        return ModelDigest(type(model).__name__, _config_digest(model), known.digest)

    def differences(self, other: ModelDigest) -> str:
        """Name the attributes in which another model differs, or return an empty string."""
        found, wanted = asdict(self), asdict(other)
        return ", ".join(name for name in found if found[name] != wanted[name])


def model_of(attention: models.Attention) -> PreTrainedModel:
    """Return the living model that contains an attention module.

    Modules do not know what contains them, so this searches the objects in memory. It takes about 0.1 s.

    Raises
    ------
    ValueError
        If there is not exactly one outermost model.
    """
    living = [thing for thing in gc.get_objects() if issubclass(type(thing), PreTrainedModel)]
    holders = [model for model in living if any(module is attention for module in model.modules())]
    inner = {id(module) for model in holders for module in model.modules() if module is not model}
    outermost = [model for model in holders if id(model) not in inner]
    if len(outermost) != 1:
        raise ValueError(f"{len(outermost)} models contain the attention layers that read this cache: pass the model")
    return outermost[0]


def digest_of_bytes(tensor: torch.Tensor) -> bytes:
    """Return the SHA-256 of a tensor's bytes, on any device."""
    return hashlib.sha256(as_bytes(tensor)).digest()


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor; those of a contiguous tensor on the CPU without copying them."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


class _Known:
    """The digest of weights, and the state in which they had it."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        missing = [name for name, tensor in tensors.items() if tensor.is_meta]
        if missing:
            raise ValueError(f"the weights of {missing[0]} are not in memory: load the model without offloading")
        self._states = {name: (weakref.ref(tensor), _state(tensor)) for name, tensor in tensors.items()}
        digest = hashlib.sha256()
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for (name, tensor), found in zip(tensors.items(), pool.map(digest_of_bytes, tensors.values()), strict=True):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + found)
        self.digest = digest.hexdigest()

    def holds(self, tensors: dict[str, torch.Tensor]) -> bool:
        """Return whether these are the same tensors, unchanged."""
        if tensors.keys() != self._states.keys():
            return False
        pairs = ((tensors[name], *self._states[name]) for name in tensors)
        return all(
            reference() is tensor and not tensor.is_inference() and state == _state(tensor)
            for tensor, reference, state in pairs
        )


_WEIGHTS: weakref.WeakKeyDictionary[nn.Module, _Known] = weakref.WeakKeyDictionary()


def _state(tensor: torch.Tensor) -> tuple[Any, ...]:
    version = -1 if tensor.is_inference() else tensor._version  # inference tensors do not count changes
    return tensor.data_ptr(), version, tensor.dtype, tuple(tensor.shape)


def _stored(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield parameters and buffers that a checkpoint stores; tied ones once. Others follow from the configuration."""
    yield from model.named_parameters()
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}", buffer


def _config_digest(model: PreTrainedModel) -> str:
    settings = _without_neutral(model.config.to_diff_dict())
    adapters = _adapters_in_use(model)
    if adapters:
        settings["adapters"] = adapters
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def _adapters_in_use(model: nn.Module) -> dict[str, list[str]]:
    """Return for each layer with adapters of peft which of them are active or merged, and how strong they are.

    The weights alone do not say: all adapters stay in memory, and peft merges them through ``.data``.
    """
    found = {}
    for name, module in model.named_modules():
        merged, active = getattr(module, "merged_adapters", None), getattr(module, "active_adapters", None)
        if merged is None or active is None:
            continue
        used = [] if module.disable_adapters else list(active)
        scaling = getattr(module, "scaling", {})
        found[name] = [*(f"{adapter} {scaling.get(adapter)}" for adapter in used), *(f"merged {one}" for one in merged)]
    return found


def _without_neutral(setting: Any) -> Any:
    if not isinstance(setting, dict):
        return setting
    kept = {name: value for name, value in setting.items() if name not in NEUTRAL and not name.endswith("_token_id")}
    return {name: _without_neutral(value) for name, value in kept.items()}
