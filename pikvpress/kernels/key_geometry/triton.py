"""The geometry of keys: one pass over the keys, and over the values if requested; another pass for the cosines.

Each program writes the sum of its keys' directions, 4 B H D T / 256 bytes in total; torch adds them up.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pikvpress.kernels.key_geometry.reference import (
    SHORTEST,
    SHORTEST_KEY,
    KeyGeometry,
    check_direction,
    check_same_shape,
    unit_length,
)
from pikvpress.kernels.tiles import padded_size

NUMBERS = 8192  # per tile
KEYS = 256  # per program of the first pass


def key_geometry(keys: torch.Tensor, values: torch.Tensor) -> KeyGeometry:
    """Return the lengths of keys and values and the mean direction of the keys; see the reference."""
    check_same_shape(keys, values)
    key_norms = torch.empty(keys.shape[:3], dtype=torch.float32, device=keys.device)
    value_norms = torch.empty_like(key_norms)
    return KeyGeometry(key_norms, value_norms, _summed_up(keys, values, key_norms, value_norms, norms=True))


def mean_direction(keys: torch.Tensor) -> torch.Tensor:
    """Return the mean of the keys, each scaled to length 1; see the reference."""
    return _summed_up(keys, keys, keys, keys, norms=False)


def cosines(keys: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Return the cosine of the angle between each key and a direction; see the reference."""
    check_direction(keys, direction)
    batch, heads, num_keys, head_dim = keys.shape
    found = torch.empty(batch, heads, num_keys, dtype=torch.float32, device=keys.device)
    if found.numel() == 0:
        return found
    tile = _tile(head_dim)
    _cosine_kernel[(triton.cdiv(num_keys, tile["KEYS"]), batch * heads)](
        keys, unit_length(direction.float()).contiguous(), found, num_keys, heads, head_dim, *keys.stride(),
        SHORTEST=SHORTEST, **tile,
    )  # fmt: skip
    return found


def _summed_up(
    keys: torch.Tensor, values: torch.Tensor, key_norms: torch.Tensor, value_norms: torch.Tensor, *, norms: bool
) -> torch.Tensor:
    """Return the mean direction, and write the norms if requested."""
    batch, heads, num_keys, head_dim = keys.shape
    if batch * heads * num_keys == 0:
        return torch.zeros(batch, heads, head_dim, dtype=torch.float32, device=keys.device)
    tile = _tile(head_dim)
    blocks = triton.cdiv(num_keys, KEYS)
    partial = torch.empty(batch, heads, blocks, head_dim, dtype=torch.float32, device=keys.device)
    _direction_kernel[(blocks, batch * heads)](
        keys, values, key_norms, value_norms, partial, num_keys, heads, head_dim, *keys.stride(), *values.stride(),
        SHORTEST=SHORTEST_KEY, NORMS=norms, TILES=KEYS // tile["KEYS"], **tile,
    )  # fmt: skip
    return partial.sum(dim=2) / num_keys


def _tile(head_dim: int) -> dict[str, int]:
    padded = padded_size(head_dim)
    return {"KEYS": min(KEYS, max(16, NUMBERS // padded)), "DIM": padded}


@triton.jit
def _rows(states, row, num_keys, head_dim, stride_row, stride_dim, DIM: tl.constexpr):
    """Return rows of keys or values in float32, with zeros outside."""
    dim = tl.arange(0, DIM)
    return tl.load(
        states + row[:, None].to(tl.int64) * stride_row + dim[None, :] * stride_dim,
        mask=(row[:, None] < num_keys) & (dim[None, :] < head_dim),
        other=0.0,
    ).to(tl.float32)


@triton.jit
def _direction_kernel(
    keys, values, key_norms, value_norms, partial, num_keys, heads, head_dim,
    key_batch, key_head, key_row, key_dim, value_batch, value_head, value_row, value_dim,
    SHORTEST: tl.constexpr, NORMS: tl.constexpr, TILES: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """partial[head, block] = Σ k / |k| over the keys of a block; with NORMS, also the norms of keys and values."""
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    keys += (head // heads) * key_batch + (head % heads) * key_head
    values += (head // heads) * value_batch + (head % heads) * value_head
    total = tl.zeros((DIM,), tl.float32)
    for tile in range(TILES):
        row = (block * TILES + tile) * KEYS + tl.arange(0, KEYS)
        key = _rows(keys, row, num_keys, head_dim, key_row, key_dim, DIM)
        norm = tl.sqrt(tl.sum(key * key, axis=1))
        total += tl.sum(key / tl.maximum(norm, SHORTEST)[:, None], axis=0)
        if NORMS:
            value = _rows(values, row, num_keys, head_dim, value_row, value_dim, DIM)
            place = head * num_keys + row
            tl.store(key_norms + place, norm, mask=row < num_keys)
            tl.store(value_norms + place, tl.sqrt(tl.sum(value * value, axis=1)), mask=row < num_keys)
    dim = tl.arange(0, DIM)
    tl.store(partial + (head * tl.num_programs(0) + block) * head_dim + dim, total, mask=dim < head_dim)


@triton.jit
def _cosine_kernel(
    keys, unit, found, num_keys, heads, head_dim, key_batch, key_head, key_row, key_dim,
    SHORTEST: tl.constexpr, KEYS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """found[head, t] = k·u / |k|."""
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    key = _rows(keys + (head // heads) * key_batch + (head % heads) * key_head,
                row, num_keys, head_dim, key_row, key_dim, DIM)  # fmt: skip
    dim = tl.arange(0, DIM)
    along = tl.sum(key * tl.load(unit + head * head_dim + dim, mask=dim < head_dim, other=0.0)[None, :], axis=1)
    norm = tl.sqrt(tl.sum(key * key, axis=1))
    tl.store(found + head * num_keys + row, along / tl.maximum(norm, SHORTEST), mask=row < num_keys)
