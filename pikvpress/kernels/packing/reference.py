"""The definition of packing: numbers to a few bits each, with a scale and a zero point for every group.

Asymmetric, round to nearest: code = round((x - zero) / scale) with zero the least number of a group and scale its range
divided by the largest code. Keys are grouped along tokens, a scale a channel, since their channels differ; values along
channels, since their tokens do (KIVI, https://arxiv.org/abs/2402.02750).
"""

from __future__ import annotations

import math

import torch

SCALE_DTYPE = torch.float16


def pack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Lay codes side by side.

    Parameters
    ----------
    codes : torch.Tensor
        Below 2^bits, uint8, shape (..., n); n · bits a multiple of 8, and n of the codes that fill whole bytes.
    bits : int
        2, 3, 4 or 8.

    Returns
    -------
    torch.Tensor
        uint8, shape (..., n · bits / 8); the first code in the lowest bits.
    """
    unit, size = _unit(bits)
    wide = codes if size == 1 else codes.int()
    word = wide[..., 0::unit].clone()
    for i in range(1, unit):
        word |= wide[..., i::unit] << (bits * i)
    if size == 1:
        return word
    return torch.stack([(word >> (8 * i) & 255).to(torch.uint8) for i in range(size)], dim=-1).flatten(-2)


def unpack_bits(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the codes that `pack_bits` was given."""
    unit, size = _unit(bits)
    word = packed if size == 1 else packed[..., 0::size].int()
    for i in range(1, size):
        word = word | packed[..., i::size].int() << (8 * i)
    largest = 2**bits - 1
    return torch.stack([(word >> (bits * i) & largest).to(torch.uint8) for i in range(unit)], dim=-1).flatten(-2)


def codes_in_whole_bytes(bits: int) -> int:
    """Return how many codes fill whole bytes: a row must hold a multiple of them."""
    return _unit(bits)[0]


def quantise(
    states: torch.Tensor, bits: int, group: int, along_tokens: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes, scales and zero points.

    Parameters
    ----------
    states : torch.Tensor
        Shape (n, d), n >= 1.
    bits : int
        Of a code: 2, 3, 4 or 8.
    group : int
        Numbers that share a scale; the last group may be smaller.
    along_tokens : bool
        Whether groups run along n, as for keys, or along d, as for values.

    Returns
    -------
    (torch.Tensor, torch.Tensor, torch.Tensor)
        Codes, uint8, shape (n, d); scales and zero points, float16, shape (⌈n / group⌉, d) or (n, ⌈d / group⌉).

    Raises
    ------
    ValueError
        If a scale or zero point does not fit into float16.
    """
    dim = 0 if along_tokens else 1
    grouped = _grouped(states.float(), group, dim)
    zero = grouped.amin(dim=dim + 1).to(SCALE_DTYPE)
    top = grouped.amax(dim=dim + 1)
    scale = ((top - zero.float()) / (2**bits - 1)).to(SCALE_DTYPE)
    check_scales(states, scale, zero)
    step = spread(scale, states.shape, group, along_tokens).float()
    distance = states.float() - spread(zero, states.shape, group, along_tokens).float()
    codes = torch.where(step > 0, distance / step.clamp_min(1e-30), 0).round_().clamp_(0, 2**bits - 1)
    return codes.to(torch.uint8), scale, zero


def check_scales(states: torch.Tensor, *scales: torch.Tensor) -> None:
    """Raise a ``ValueError`` that says how large states are if scales in float16 are too small a type for them."""
    if not all(bool(part.isfinite().all()) for part in scales):
        raise ValueError(
            f"states up to {states.abs().max().item():.3g} cannot be packed: scales are kept in float16, whose largest "
            "number is 65504; keep them exact"
        )


def dequantise(
    codes: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor,
    group: int,
    along_tokens: bool,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return the numbers that codes stand for, shape (n, d); computed in float32 and rounded to ``dtype`` once."""
    step, base = (spread(part, codes.shape, group, along_tokens).float() for part in (scale, zero))
    return torch.addcmul(base, codes.float(), step).to(dtype)


def spread(per_group: torch.Tensor, shape: torch.Size, group: int, along_tokens: bool) -> torch.Tensor:
    """Return a number per group as a number per entry, shape (n, d)."""
    dim = 0 if along_tokens else 1
    return per_group.repeat_interleave(group, dim=dim).narrow(dim, 0, shape[dim])


def _grouped(states: torch.Tensor, group: int, dim: int) -> torch.Tensor:
    """Return states with their groups in a dimension of their own; the last entry fills up the last group."""
    missing = -states.shape[dim] % group
    if missing:
        last = states.narrow(dim, states.shape[dim] - 1, 1)
        states = torch.cat([states, last.expand(*(missing if i == dim else -1 for i in range(2)))], dim=dim)
    return states.unflatten(dim, (-1, group))


def _unit(bits: int) -> tuple[int, int]:
    """Return the fewest codes that fill whole bytes, and how many bytes those are."""
    bytes_ = bits // math.gcd(bits, 8)
    return bytes_ * 8 // bits, bytes_
