"""The definition of compaction: which rows stay, in position order, and their copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F

from pikvpress.kernels.packing.reference import codes_in_whole_bytes, pack_bits, quantise

ALIGNED = 16  # bytes to whose multiple each packed part is filled up, as the cache lays them


class Compacted(NamedTuple):
    """Rows of different number from each head, one head after the other.

    Attributes
    ----------
    rows : torch.Tensor
        Of the states' type, shape (rows in all, D), ordered by row of the batch, head and position.
    counts : torch.Tensor
        Rows of each head, int64, shape (B * H,).
    starts : torch.Tensor
        The first row of each head, int64, shape (B * H,).
    """

    rows: torch.Tensor
    counts: torch.Tensor
    starts: torch.Tensor


class Packed(NamedTuple):
    """The bytes of each head's rows, one head after the other.

    Attributes
    ----------
    buffer : torch.Tensor
        uint8: of each head, by row of the batch and head, its scales, its zero points and its packed codes, filled up
        with zeros to a multiple of 16.
    starts : torch.Tensor
        The first byte of each head, int64, shape (B * H,).
    """

    buffer: torch.Tensor
    starts: torch.Tensor


def select(scores: torch.Tensor, num_kept: int) -> torch.Tensor:
    """Return the positions of the highest scores, in ascending position.

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
    """Return which entries are among the highest scores of their head; of equal ones the first.

    Parameters
    ----------
    scores : torch.Tensor
        Shape (B, H, T), higher = keep.
    counts : torch.Tensor
        How many each head keeps, int64, shape (H,), between 0 and T.

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
        Which rows stay, bool, shape (B, H, T).
    total : int
        How many they are in all: who keeps them knows the budget, and a GPU need not be waited for. There a wrong
        number is not noticed: rows are missing at the end, or have no meaning.

    Returns
    -------
    Compacted
        The rows, and how many of each head there are and where they start.

    Raises
    ------
    ValueError
        If shapes or types do not fit, or, on a CPU, another number of rows is kept.
    """
    check_kept(states, kept)
    rows = states[kept]
    if len(rows) != total:
        raise ValueError(f"{len(rows)} rows are kept and {total} were announced: pass the sum of `kept` as total")
    counts = kept.flatten(0, 1).sum(dim=-1)
    return Compacted(rows, counts, counts.cumsum(0) - counts)


def compact_and_pack(
    states: torch.Tensor, kept: torch.Tensor, counts: Sequence[int], bits: int, group: int, along_tokens: bool
) -> Packed:
    """Pack the kept rows of each head, in position order, into one buffer.

    Each head's part holds what `quantise` and `pack_bits` of `pikvpress.kernels.packing` make of its rows: scales,
    zero points, codes (KIVI, https://arxiv.org/abs/2402.02750). On a GPU the copy of the rows is never written, and
    the host waits once, to see whether a scale was too large.

    Parameters
    ----------
    states : torch.Tensor
        Keys or values, shape (B, H, T, D).
    kept : torch.Tensor
        Which rows stay, bool, shape (B, H, T).
    counts : sequence of int
        How many of each head, B * H numbers. On a GPU wrong numbers are not noticed; the bytes then have no meaning.
    bits : int
        Of a code: 2, 3, 4 or 8.
    group : int
        Numbers that share a scale; the last group of a head or a row may be smaller.
    along_tokens : bool
        Whether groups run along a head's kept rows, as for keys, or along channels, as for values.

    Returns
    -------
    Packed
        The bytes, and where those of each head start.

    Raises
    ------
    ValueError
        If shapes, types or sizes do not fit, a number is too large for scales of float16, or, on a CPU, heads keep
        other numbers of rows.
    """
    check_kept(states, kept)
    check_packing(states, counts, bits, group, along_tokens)
    parts = []
    for index, (head, stay) in enumerate(zip(states.flatten(0, 1), kept.flatten(0, 1), strict=True)):
        rows = head[stay]
        if len(rows) != counts[index]:
            raise ValueError(
                f"head {index} keeps {len(rows)} rows and {counts[index]} were announced: pass the sums of `kept`"
            )
        parts.append(_packed(rows, bits, group, along_tokens))
    starts = torch.tensor([0, *map(len, parts)], device=states.device).cumsum(0)[:-1]
    return Packed(torch.cat(parts), starts)


def _packed(rows: torch.Tensor, bits: int, group: int, along_tokens: bool) -> torch.Tensor:
    if len(rows) == 0:
        return torch.empty(0, dtype=torch.uint8, device=rows.device)
    codes, scale, zero = quantise(rows, bits, group, along_tokens)
    stored = torch.cat([torch.stack([scale, zero]).view(torch.uint8).flatten(), pack_bits(codes, bits).flatten()])
    return F.pad(stored, (0, -len(stored) % ALIGNED))


def check_kept(states: torch.Tensor, kept: torch.Tensor) -> None:
    """Raise a ``ValueError`` if there is not one bool for each row."""
    if states.dim() != 4 or kept.shape != states.shape[:3] or kept.dtype != torch.bool:
        raise ValueError(
            f"states are {tuple(states.shape)}, kept {tuple(kept.shape)} of {kept.dtype}: pass states (B, H, T, D) and "
            "a bool for each row (B, H, T)"
        )


def check_packing(states: torch.Tensor, counts: Sequence[int], bits: int, group: int, along_tokens: bool) -> None:
    """Raise a ``ValueError`` if rows of these states cannot be packed so."""
    if bits not in (2, 3, 4, 8):
        raise ValueError(f"codes of {bits} bits are not known: choose 2, 3, 4 or 8")
    unit = codes_in_whole_bytes(bits)
    if states.shape[3] == 0 or states.shape[3] % unit:
        raise ValueError(
            f"rows of {states.shape[3]} codes of {bits} bits do not end with a whole byte: choose bits=8, or pass rows "
            f"of a multiple of {unit}"
        )
    if group < 1 or (group % unit and not along_tokens):
        raise ValueError(f"groups of {group} codes of {bits} bits cannot be packed: pass a multiple of {unit}")
    heads = states.shape[0] * states.shape[1]
    if len(counts) != heads or not all(0 <= count <= states.shape[2] for count in counts):
        raise ValueError(
            f"counts {list(counts)} do not fit {heads} heads of {states.shape[2]} rows: pass each head's sum of `kept`"
        )
