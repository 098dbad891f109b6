"""From dense keys or values to ragged ones: the kept entries, in the codec of their head."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pikvpress.cache.codec import GROUP, Codec
from pikvpress.cache.ragged import Ragged, filled_up, live_channels, stored_bytes
from pikvpress.cache.rotated import RotatedCodec
from pikvpress.kernels.compact import compact_and_pack, compact_rows


def store_kept(
    states: torch.Tensor, kept: torch.Tensor, codecs: Sequence[Codec], is_keys: bool, all_channels: bool = False
) -> Ragged:
    """Store the kept entries of every head.

    Heads with the same codec are selected and packed together. The host synchronises once, for the number of entries of
    each head.

    Parameters
    ----------
    states : torch.Tensor
        Keys or values, shape (batch, kv_heads, entries, head_dim).
    kept : torch.Tensor
        bool, shape (batch, kv_heads, entries).
    codecs : sequence of Codec
        Codec of each KV head, or of each head of each row.
    is_keys : bool
        Whether these are keys, which are grouped along tokens.
    all_channels : bool, default=False
        As in `Ragged.store`: whether channels of keys that are 0 in all entries are also stored.

    Raises
    ------
    ValueError
        If a codec does not support the head size, or a number is too large for it.
    """
    counts = kept.flatten(0, 1).sum(dim=-1).tolist()
    of_parts = _by_part(codecs, kept)
    if is_keys and not all_channels and _has_cleared_channels(states):
        rows = compact_rows(states, kept, sum(counts)).rows.split(counts)
        return Ragged.store(rows, of_parts, is_keys)
    head_dim = states.shape[3]
    pieces: dict[int, torch.Tensor] = {}
    for codec in dict.fromkeys(codecs):
        codec.check(head_dim)
        members = [index for index, other in enumerate(of_parts) if other == codec]
        chosen, stay, numbers = _of(states, members), _of(kept, members), [counts[index] for index in members]
        if codec.bits is None or isinstance(codec, RotatedCodec):
            rows = compact_rows(chosen, stay, sum(numbers)).rows.split(numbers)
            pieces |= {index: filled_up(codec.encode(part, is_keys)) for index, part in zip(members, rows, strict=True)}
        else:
            sizes = [stored_bytes(codec, number, head_dim, states.dtype, is_keys) for number in numbers]
            packed = compact_and_pack(chosen, stay, numbers, codec.bits, GROUP, is_keys).buffer
            pieces |= dict(zip(members, packed.split(sizes), strict=True))
    buffer = torch.cat([pieces[index] for index in range(len(of_parts))])
    channels = (None,) * len(of_parts)
    return Ragged(buffer, tuple(counts), tuple(of_parts), channels, head_dim, states.dtype, is_keys)


def kept_bytes(states: torch.Tensor, kept: torch.Tensor, codecs: Sequence[Codec], is_keys: bool) -> int:
    """Return the exact number of bytes of what `store_kept` would return, without storing; same parameters.

    Counts and codecs determine it, unless channels of keys are cleared: these are found from the rows.
    """
    counts = kept.flatten(0, 1).sum(dim=-1).tolist()
    of_parts = _by_part(codecs, kept)
    head_dim, dtype = states.shape[3], states.dtype
    for codec in dict.fromkeys(codecs):
        codec.check(head_dim)
    widths, named = [head_dim] * len(counts), 0
    if is_keys and _has_cleared_channels(states):
        rows = compact_rows(states, kept, sum(counts)).rows.split(counts)
        found = [live_channels(part, codec) for part, codec in zip(rows, of_parts, strict=True)]
        widths = [head_dim if live is None else len(live) for live in found]
        named = sum(live.nbytes for live in found if live is not None)
    sizes = zip(of_parts, counts, widths, strict=True)
    return named + sum(stored_bytes(codec, count, width, dtype, is_keys) for codec, count, width in sizes)


def _by_part(codecs: Sequence[Codec], kept: torch.Tensor) -> list[Codec]:
    """Return the codec of each head of each row."""
    return list(codecs) * (kept.shape[0] * kept.shape[1] // len(codecs))


def _has_cleared_channels(states: torch.Tensor) -> bool:
    return not bool((states != 0).any(dim=2).all())


def _of(tensor: torch.Tensor, members: list[int]) -> torch.Tensor:
    """Return the selected heads of all rows as one row, (1, len(members), ...); unchanged if all are selected."""
    parts = tensor.flatten(0, 1)
    return (parts if len(members) == len(parts) else parts[members]).unsqueeze(0)
