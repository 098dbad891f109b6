"""A compressed context: keys and values by layer, independent of the cache that held them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from kvpress import BasePress, FinchPress, KeyRerotationPress, RestoreKVPress
from kvpress.utils import extract_keys_and_values
from transformers import Cache, PreTrainedModel, QuantizedCache

from evaluation.coded import CodedPress
from evaluation.quantized import bytes_of
from pikvpress import PiKVCache, models
from pikvpress.cache.decoded import decoded

Masked = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass
class CompressedContext:
    """A context compressed by a press.

    Parameters
    ----------
    layers : list of (torch.Tensor, torch.Tensor)
        Keys and values of every layer, shape (1, kv_heads, kept, head_dim).
    masked : list of tuple of torch.Tensor, or None
        For each layer, batch, head and position of entries that are held but not attended to.
    next_position : int
        Position of the next token.
    seconds : float
        Time of compression, excluding a prefill without a press.
    packed_bytes : int, optional
        Bytes that a `PiKVCache` or `QuantizedCache` held, or that the codec of a `CodedPress` would store; `layers`
        then contain the decoded entries, with padding that is masked.
    read : int, optional
        Tokens that the model read for it, if these are not those of the context.
    """

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    masked: list[Masked | None]
    next_position: int
    seconds: float
    packed_bytes: int | None = None
    read: int | None = None

    @property
    def tokens_read(self) -> int:
        """Number of tokens that the model read before the question."""
        return self.next_position if self.read is None else self.read

    @property
    def lengths(self) -> tuple[int, ...]:
        """Entries held per head, by layer."""
        return tuple(keys.shape[2] for keys, _ in self.layers)

    @property
    def bytes_held(self) -> int:
        """Bytes of keys and values, including masked ones, which are still held."""
        if self.packed_bytes is not None:
            return self.packed_bytes
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    @property
    def tokens_kept(self) -> float:
        """Number of entries that can be attended to, mean over layers and heads."""
        counts = [
            keys.shape[2] - (len(masked[0]) / keys.shape[1] if masked is not None else 0)
            for (keys, _), masked in zip(self.layers, self.masked, strict=True)
        ]
        return sum(counts) / len(counts)

    def sharing(self, full: CompressedContext) -> CompressedContext:
        """Return this context, sharing tensors with the full one where they are equal, to save memory."""
        layers = [
            theirs if ours[0].shape == theirs[0].shape and all(map(torch.equal, ours, theirs)) else ours
            for ours, theirs in zip(self.layers, full.layers, strict=True)
        ]
        return replace(self, layers=layers)

    @property
    def is_masked(self) -> bool:
        """Whether removed entries are still held."""
        return self.packed_bytes is None and any(masked is not None and len(masked[0]) > 0 for masked in self.masked)


def taken(
    model: PreTrainedModel, press: BasePress | None, cache: Cache, length: int, seconds: float
) -> CompressedContext:
    """Return the compressed context in a cache, including masks that the press has set on the model's layers.

    Parameters
    ----------
    model, press
        The model and the press, right after compression; None for the full cache.
    cache : Cache
        A cache with one row.
    length : int
        Number of tokens of the context.
    seconds : float
        Time of compression.
    """
    if isinstance(cache, PiKVCache):
        return _unpacked(cache, length, seconds)
    layers = [extract_keys_and_values(cache, index) for index in range(len(cache))]
    masked = [getattr(layer, "masked_key_indices", None) for layer in models.attention_layers(model)]
    position = cache.get_seq_length() if _moves_positions(press) else length
    packed = bytes_of(cache) if isinstance(cache, QuantizedCache) else None
    if isinstance(press, CodedPress):
        packed = press.nbytes
    return CompressedContext(layers, [m and tuple(m) for m in masked], position, seconds, packed)  # type: ignore[misc]


def _unpacked(cache: PiKVCache, length: int, seconds: float) -> CompressedContext:
    """Return the contents of a cache with one row as rectangles: heads padded to the longest of their layer."""
    layers: list[tuple[torch.Tensor, torch.Tensor]] = []
    masked: list[Masked | None] = []
    cache.settle()
    for layer in cache.layers:
        keys, values, missing = decoded(layer)
        layers.append((keys, values))
        masked.append(None)
        if missing is not None and missing.any():
            head, position = missing.nonzero(as_tuple=True)
            masked[-1] = (torch.zeros_like(head), head, position)
    return CompressedContext(layers, masked, length, seconds, cache.nbytes)


def _moves_positions(press: BasePress | None) -> bool:
    """Whether kept keys are rotated to new positions, which kvpress's pipeline also checks."""
    if isinstance(press, FinchPress):
        return press.rerotate_keys
    return isinstance(press, KeyRerotationPress | RestoreKVPress)
