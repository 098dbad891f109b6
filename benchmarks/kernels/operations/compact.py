"""Compaction: kept rows of each head without gaps, unchanged or packed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.kernels.operation import Inputs, Operation, Work

GROUP = 64  # numbers that share a scale, as in pikvpress.cache


def _rows(
    dtype: torch.dtype, device: str, batch: int, heads: int, tokens: int, head_dim: int, percent: int
) -> dict[str, torch.Tensor]:
    """Return states in projection layout and which of them are kept: more in later heads, none in the first of many.

    Channels have different scales and means, and one is constant.
    """
    states = torch.randn(batch, tokens, heads, head_dim, device=device) * torch.rand(head_dim, device=device)
    states += torch.randn(head_dim, device=device)
    states[..., 1] = 0.25
    share = torch.arange(heads, device=device) * (percent / 50 / max(1, heads - 1)) if heads > 2 else percent / 100
    chance = torch.rand(batch, tokens, heads, device=device)
    return {"states": states.to(dtype).transpose(1, 2), "kept": (chance < share).transpose(1, 2)}


def make_rows(
    dtype: torch.dtype, device: str, *, batch: int, heads: int, tokens: int, head_dim: int, percent: int
) -> Inputs:
    """Return states, flags and their sum."""
    rows = _rows(dtype, device, batch, heads, tokens, head_dim, percent)
    return rows | {"total": int(rows["kept"].sum())}


def make_packed(
    dtype: torch.dtype,
    device: str,
    *,
    batch: int,
    heads: int,
    tokens: int,
    head_dim: int,
    percent: int,
    bits: int,
    along_tokens: int,
) -> Inputs:
    """Return states, flags, their sums and the packing."""
    rows = _rows(dtype, device, batch, heads, tokens, head_dim, percent)
    counts = rows["kept"].flatten(0, 1).sum(dim=-1).tolist()
    return rows | {"counts": counts, "bits": bits, "group": GROUP, "along_tokens": bool(along_tokens)}


def rows_work(element_size: int, *, batch: int, heads: int, tokens: int, head_dim: int, percent: int) -> Work:
    """Return the floor: flags read once, kept rows read and written once."""
    kept = tokens * percent // 100 * head_dim * element_size
    return Work(bytes=batch * heads * (tokens + 2 * kept), flops=0)


def packed_work(
    element_size: int,
    *,
    batch: int,
    heads: int,
    tokens: int,
    head_dim: int,
    percent: int,
    bits: int,
    along_tokens: int,
) -> Work:
    """Return the floor: flags and kept rows read once, codes, scales and zero points written."""
    numbers = tokens * percent // 100 * head_dim
    packed = numbers * bits // 8 + 4 * numbers // GROUP
    return Work(bytes=batch * heads * (tokens + numbers * element_size + packed), flops=0)


def masked(states: torch.Tensor, kept: torch.Tensor, total: int) -> torch.Tensor:
    """Return the rows with PyTorch's own masking, which counts them first and synchronises."""
    return states[kept]


def rounded_only(
    states: torch.Tensor, kept: torch.Tensor, counts: Sequence[int], bits: int, group: int, along_tokens: bool
) -> list[torch.Tensor]:
    """Return each head's numbers, quantised over its full range with PyTorch's operations: no groups, no packing."""
    found = []
    for rows in states[kept].split(list(counts)):
        if len(rows):
            low, high = rows.aminmax(dim=0) if along_tokens else rows.aminmax(dim=1, keepdim=True)
            step = ((high - low) / (2**bits - 1)).clamp_min(1e-6)
            found.append(((rows - low) / step).round_().to(torch.uint8))
    return found


LARGE = [{"batch": 1, "heads": 8, "tokens": tokens, "head_dim": 128, "percent": 25} for tokens in (8192, 32768, 131072)]

COMPACT_ROWS = Operation(
    name="compact_rows",
    folder="compact",
    make=make_rows,
    small=[
        {"batch": 2, "heads": 3, "tokens": 37, "head_dim": 32, "percent": 50},
        {"batch": 1, "heads": 1, "tokens": 1, "head_dim": 80, "percent": 100},
        {"batch": 1, "heads": 2, "tokens": 0, "head_dim": 64, "percent": 50},
        {"batch": 2, "heads": 2, "tokens": 90, "head_dim": 64, "percent": 0},
        {"batch": 1, "heads": 3, "tokens": 1500, "head_dim": 80, "percent": 20},
        {"batch": 1, "heads": 2, "tokens": 300, "head_dim": 256, "percent": 80},
    ],
    large=LARGE,
    work=rows_work,
    rivals={"PyTorch masking": masked},
)

COMPACT_AND_PACK = Operation(
    name="compact_and_pack",
    folder="compact",
    make=make_packed,
    small=[
        {"batch": 2, "heads": 3, "tokens": 37, "head_dim": 32, "percent": 50, "bits": 4, "along_tokens": 1},
        {"batch": 1, "heads": 1, "tokens": 1, "head_dim": 80, "percent": 100, "bits": 3, "along_tokens": 0},
        {"batch": 1, "heads": 2, "tokens": 0, "head_dim": 64, "percent": 50, "bits": 8, "along_tokens": 1},
        {"batch": 1, "heads": 3, "tokens": 600, "head_dim": 80, "percent": 40, "bits": 3, "along_tokens": 1},
        {"batch": 1, "heads": 3, "tokens": 600, "head_dim": 80, "percent": 40, "bits": 2, "along_tokens": 0},
        {"batch": 1, "heads": 2, "tokens": 150, "head_dim": 256, "percent": 80, "bits": 8, "along_tokens": 1},
    ],
    large=[shape | {"bits": 4, "along_tokens": along} for along in (1, 0) for shape in LARGE],
    work=packed_work,
    rivals={"PyTorch, rounding alone": rounded_only},
    # Bytes: on a GPU, torch divides by a constant with a multiplication, so a scale may differ in its last bit.
    tolerance=dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), 5e-3),
)
