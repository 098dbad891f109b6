"""The definition of compaction: which rows are kept, in position order, and copying them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F

from pikvpress.kernels.packing import codes_in_whole_bytes, quantise_and_pack

ALIGNED = 16  # each packed part is padded to a multiple of this many bytes, as in the cache


class Compacted(NamedTuple):
    """Kept rows of every head, one head after the other; heads may have different numbers of rows.

    Attributes
    ----------
    rows : torch.Tensor
        The kept rows in the states' type, shape (total, D), ordered by row of the batch, head and position.
    counts : torch.Tensor
        Number of rows of each head, int64, shape (B * H,).
    starts : torch.Tensor
        Index of the first row of each head, int64, shape (B * H,).
    """

    rows: torch.Tensor
    counts: torch.Tensor
    starts: torch.Tensor


class Packed(NamedTuple):
    """The packed rows of every head, one head after the other.

    Attributes
    ----------
    buffer : torch.Tensor
        uint8: for each head, ordered by row of the batch and head, its scales, zero points and packed codes, padded
        with zeros to a multiple of 16 bytes.
    starts : torch.Tensor
        Index of the first byte of each head, int64, shape (B * H,).
    """

    buffer: torch.Tensor
    starts: torch.Tensor


def select(scores: torch.Tensor, num_kept: int) -> torch.Tensor:
    """Return the positions of the highest scores, in ascending order of position.

    Parameters
    ----------
    scores : torch.Tensor
        Shape (B, H, T), higher = keep.
    num_kept : int
        How many to keep, 1 <= num_kept <= T.

    Returns
    -------
    torch.Tensor
        int64, shape (B, H, num_kept).
    """
    return scores.topk(num_kept, dim=-1, sorted=False).indices.sort(dim=-1).values


def highest(scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return which entries are among the highest scores of their head; among equal scores, the first are kept.

    Parameters
    ----------
    scores : torch.Tensor
        Shape (B, H, T), higher = keep.
    counts : torch.Tensor
        Number of entries that each head keeps, int64, shape (H,), between 0 and T.

    Returns
    -------
    torch.Tensor
        bool, shape (B, H, T).
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    kept = torch.arange(scores.shape[-1], device=scores.device) < counts[:, None]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, kept.expand_as(scores))


def gather_rows(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Copy the rows of keys or values (B, H, T, D) at ``positions`` (B, H, n) into a new tensor (B, H, n, D)."""
    return states.gather(2, positions.unsqueeze(-1).expand(-1, -1, -1, states.shape[-1]))


def compact_rows(states: torch.Tensor, kept: torch.Tensor, total: int) -> Compacted:
    """Copy the kept rows of each head, in position order, into one tensor without gaps.

    Parameters
    ----------
    states : torch.Tensor
        Keys or values, shape (B, H, T, D).
    kept : torch.Tensor
        Which rows are kept, bool, shape (B, H, T).
    total : int
        Total number of kept rows. The caller knows it from the budget; counting here would mean waiting for a GPU. On
        a GPU, a wrong number is not detected: rows are then missing at the end, or meaningless.

    Returns
    -------
    Compacted
        The rows, and for each head how many there are and where they start.

    Raises
    ------
    ValueError
        If shapes or types do not match or, on a CPU, if the number of kept rows is not `total`.
    """
    check_kept(states, kept)
    rows = states[kept]
    if len(rows) != total:
        raise ValueError(f"{len(rows)} rows are kept but total is {total}: pass the sum of `kept` as total")
    counts = kept.flatten(0, 1).sum(dim=-1)
    return Compacted(rows, counts, counts.cumsum(0) - counts)


def compact_and_pack(
    states: torch.Tensor, kept: torch.Tensor, counts: Sequence[int], bits: int, group: int, along_tokens: bool
) -> Packed:
    """Pack the kept rows of each head, in position order, into one buffer.

    Each head's part holds what `quantise` and `pack_bits` in `pikvpress.kernels.packing` return for its rows: scales,
    zero points and codes (KIVI, https://arxiv.org/abs/2402.02750). On a GPU, the rows are packed without being copied
    first, and the host waits once, to check whether a scale was too large.

    Parameters
    ----------
    states : torch.Tensor
        Keys or values, shape (B, H, T, D).
    kept : torch.Tensor
        Which rows are kept, bool, shape (B, H, T).
    counts : sequence of int
        Number of kept rows of each head, B * H numbers. On a GPU, wrong numbers are not detected, and the bytes are
        then meaningless.
    bits : int
        Bits per code: 2, 3, 4 or 8.
    group : int
        How many numbers share a scale; the last group of a head or row may be smaller.
    along_tokens : bool
        Whether groups run along a head's kept rows, as for keys, or along channels, as for values.

    Returns
    -------
    Packed
        The bytes, and where each head's bytes start.

    Raises
    ------
    ValueError
        If shapes, types or sizes do not match, if a number is too large for float16 scales or, on a CPU, if heads keep
        other numbers of rows than `counts` says.
    """
    check_kept(states, kept)
    check_packing(states, counts, bits, group, along_tokens)
    parts = []
    for index, (head, stay) in enumerate(zip(states.flatten(0, 1), kept.flatten(0, 1), strict=True)):
        rows = head[stay]
        if len(rows) != counts[index]:
            raise ValueError(
                f"head {index} keeps {len(rows)} rows but its count is {counts[index]}: pass each head's sum of `kept`"
            )
        parts.append(_packed(rows, bits, group, along_tokens))
    starts = torch.tensor([0, *map(len, parts)], device=states.device).cumsum(0)[:-1]
    return Packed(torch.cat(parts), starts)


def _packed(rows: torch.Tensor, bits: int, group: int, along_tokens: bool) -> torch.Tensor:
    if len(rows) == 0:
        return torch.empty(0, dtype=torch.uint8, device=rows.device)
    codes, scale, zero = quantise_and_pack(rows, bits, group, along_tokens)
    stored = torch.cat([torch.stack([scale, zero]).view(torch.uint8).flatten(), codes.flatten()])
    return F.pad(stored, (0, -len(stored) % ALIGNED))


def check_kept(states: torch.Tensor, kept: torch.Tensor) -> None:
    """Raise a ``ValueError`` unless there is one bool for each row."""
    if states.dim() != 4 or kept.shape != states.shape[:3] or kept.dtype != torch.bool:
        raise ValueError(
            f"states are {tuple(states.shape)}, kept {tuple(kept.shape)} of {kept.dtype}: pass states (B, H, T, D) and "
            "a bool for each row (B, H, T)"
        )


def check_packing(states: torch.Tensor, counts: Sequence[int], bits: int, group: int, along_tokens: bool) -> None:
    """Raise a ``ValueError`` if rows of these states cannot be packed in this way."""
    if bits not in (2, 3, 4, 8):
        raise ValueError(f"codes of {bits} bits are not supported: choose 2, 3, 4 or 8")
    unit = codes_in_whole_bytes(bits)
    if states.shape[3] == 0 or states.shape[3] % unit:
        raise ValueError(
            f"rows of {states.shape[3]} codes of {bits} bits do not fill whole bytes: choose bits=8, or pass rows "
            f"whose length is a multiple of {unit}"
        )
    if group < 1 or (group % unit and not along_tokens):
        raise ValueError(f"groups of {group} codes of {bits} bits cannot be packed: pass a multiple of {unit}")
    heads = states.shape[0] * states.shape[1]
    if len(counts) != heads or not all(0 <= count <= states.shape[2] for count in counts):
        raise ValueError(
            f"counts {list(counts)} do not fit {heads} heads of {states.shape[2]} rows: pass each head's sum of `kept`"
        )
