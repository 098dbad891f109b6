"""Peak memory of a prefill and of decoding, without the weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Cache, DynamicCache, PreTrainedModel

from pikvpress import models
from pikvpress.devices import devices_of
from pikvpress.images import next_positions

if TYPE_CHECKING:
    from kvpress import BasePress


@dataclass(frozen=True)
class MemoryUsage:
    """Bytes in addition to what was allocated before the run, such as the weights.

    Attributes
    ----------
    prefill_peak : int
        Peak number of bytes during the prefill, including cache and temporaries.
    decode_peak : int
        Peak number of bytes during decoding, including the cache.
    cache : int
        Bytes of the keys and values held after the prefill.
    """

    prefill_peak: int
    decode_peak: int
    cache: int


def measure_memory_usage(
    model: PreTrainedModel, inputs: Any, press: BasePress | None = None, max_new_tokens: int = 8
) -> MemoryUsage:
    """Measure the memory that a model needs in addition to its weights.

    On CUDA the allocator's peak is read after synchronisation, and those of several GPUs are added up; on CPU every
    allocation and release is counted.

    Parameters
    ----------
    model : PreTrainedModel
        A model on CPU or CUDA.
    inputs : torch.Tensor or mapping
        Token ids, shape (batch, tokens), or the output of a tokenizer or processor with `input_ids`, with its images.
    press : BasePress, optional
        Press to compress with. Omit it inside ``with press(model):``.
    max_new_tokens : int, default=8
        Number of tokens to decode, at least 1.

    Returns
    -------
    MemoryUsage
        The usage in bytes.

    Raises
    ------
    ValueError
        If there are no tokens to read or to decode, or the model is on devices of several kinds.
    """
    ids = inputs if isinstance(inputs, torch.Tensor) else inputs["input_ids"]
    if ids.dim() != 2 or ids.numel() == 0:
        raise ValueError(f"inputs must be token ids of shape (batch, tokens), not empty, got shape {tuple(ids.shape)}")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    ids = ids.to(model.device)
    pixels = {} if isinstance(inputs, torch.Tensor) else _images(inputs, model)
    cache = DynamicCache()
    devices = devices_of(model)
    kinds = {device.type for device in devices}
    if len(kinds) > 1 or "meta" in kinds:
        raise ValueError("weights are on CPU and CUDA, or offloaded: load the model on devices of one kind to measure")
    peak = partial(_cuda_peak, devices) if model.device.type == "cuda" else _cpu_peak
    state = {"token": ids[:, -1:]}

    def prefill() -> None:
        with press(model) if press is not None else nullcontext():
            logits = model(input_ids=ids, logits_to_keep=1, **{models.CACHE: cache}, **pixels).logits
        state["token"] = logits[:, -1:].argmax(dim=-1)

    def decode() -> None:
        for step in range(max_new_tokens):
            position = next_positions(model, ids.shape[1] + step, 1)
            logits = model(input_ids=state["token"], position_ids=position, **{models.CACHE: cache}).logits
            state["token"] = logits[:, -1:].argmax(dim=-1)

    with torch.no_grad():
        prefill_peak = peak(prefill)
        held = cache_bytes(cache)
        decode_peak = held + peak(decode)
    return MemoryUsage(prefill_peak, decode_peak, held)


def _images(inputs: Mapping[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """Return what a processor has made of images and videos."""
    found = {name: inputs[name] for name in inputs if any(kind in name for kind in ("pixel", "image", "video"))}
    return {name: part.to(model.device) if isinstance(part, torch.Tensor) else part for name, part in found.items()}


def cache_bytes(cache: Cache) -> int:
    """Return the bytes of the keys and values in a cache of plain tensors."""
    held: list[Any] = list(cache.layers)
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in held)


def _cuda_peak(devices: Collection[torch.device], work: Callable[[], None]) -> int:
    before = 0
    for device in devices:
        torch.cuda.synchronize(device)
        before += torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    work()
    for device in devices:
        torch.cuda.synchronize(device)
    return sum(torch.cuda.max_memory_allocated(device) for device in devices) - before


def _cpu_peak(work: Callable[[], None]) -> int:
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "99"
    )  # otherwise some builds of torch report every start and stop on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    used = peak = 0
    changes = (event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]")
    for event in sorted(changes, key=lambda event: event.start_ns()):
        used += event.nbytes()
        peak = max(peak, used)
    return peak
