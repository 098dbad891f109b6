"""The definition of packing: numbers in a few bits each, with a scale and a zero point for every group.

Asymmetric, rounded to nearest: code = round((x - zero) / scale), where zero is the smallest number of a group and scale
is its range divided by the largest code. Keys are grouped along tokens, with a scale per channel, since their channels
differ in scale; values are grouped along channels, since their tokens do (KIVI, https://arxiv.org/abs/2402.02750).
"""

from __future__ import annotations

import math

import torch

SCALE_DTYPE = torch.float16


def pack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Store codes side by side, without gaps.

    Parameters
    ----------
    codes : torch.Tensor
        Numbers below 2^bits, uint8, shape (..., n), where n is a multiple of `codes_in_whole_bytes(bits)`.
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
    """Return the codes that were passed to `pack_bits`."""
    unit, size = _unit(bits)
    word = packed if size == 1 else packed[..., 0::size].int()
    for i in range(1, size):
        word = word | packed[..., i::size].int() << (8 * i)
    largest = 2**bits - 1
    return torch.stack([(word >> (bits * i) & largest).to(torch.uint8) for i in range(unit)], dim=-1).flatten(-2)


def codes_in_whole_bytes(bits: int) -> int:
    """Return the smallest number of codes that fills whole bytes; the length of a row must be a multiple of it."""
    return _unit(bits)[0]


def quantise(
    states: torch.Tensor, bits: int, group: int, along_tokens: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the codes, scales and zero points of some numbers.

    Parameters
    ----------
    states : torch.Tensor
        Shape (n, d), n >= 1.
    bits : int
        Bits per code: 2, 3, 4 or 8.
    group : int
        How many numbers share a scale; the last group may be smaller.
    along_tokens : bool
        Whether groups run along n, as for keys, or along d, as for values.

    Returns
    -------
    (torch.Tensor, torch.Tensor, torch.Tensor)
        Codes, uint8, shape (n, d); scales and zero points, float16, shape (⌈n / group⌉, d) or (n, ⌈d / group⌉).

    Raises
    ------
    ValueError
        If a scale or zero point is too large for float16.
    """
    scale, zero = scales_of(states, bits, group, along_tokens)
    step = spread(scale, states.shape, group, along_tokens).float()
    distance = states.float() - spread(zero, states.shape, group, along_tokens).float()
    codes = torch.where(step > 0, distance / step.clamp_min(1e-30), 0).round_().clamp_(0, 2**bits - 1)
    return codes.to(torch.uint8), scale, zero


def quantise_and_pack(
    states: torch.Tensor, bits: int, group: int, along_tokens: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what `quantise` returns, with its codes packed by `pack_bits`: uint8, shape (n, d · bits / 8)."""
    codes, scale, zero = quantise(states, bits, group, along_tokens)
    return pack_bits(codes, bits), scale, zero


def scales_of(states: torch.Tensor, bits: int, group: int, along_tokens: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scales and zero points of `quantise`."""
    dim = 0 if along_tokens else 1
    grouped = _grouped(states.float(), group, dim)
    zero = grouped.amin(dim=dim + 1).to(SCALE_DTYPE)
    top = grouped.amax(dim=dim + 1)
    scale = ((top - zero.float()) / (2**bits - 1)).to(SCALE_DTYPE)
    check_scales(states, scale, zero)
    return scale, zero


def check_scales(states: torch.Tensor, *scales: torch.Tensor) -> None:
    """Raise a ``ValueError``, which says how large the states are, if a scale is too large for float16."""
    if not all(bool(part.isfinite().all()) for part in scales):
        raise ValueError(
            f"states up to {states.abs().max().item():.3g} cannot be packed: scales are stored in float16, "
            "whose largest number is 65504; store these states exactly"
        )


def dequantise(
    codes: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor,
    group: int,
    along_tokens: bool,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return the numbers that codes represent, shape (n, d), computed in float32 and rounded to ``dtype`` once."""
    step, base = (spread(part, codes.shape, group, along_tokens).float() for part in (scale, zero))
    return torch.addcmul(base, codes.float(), step).to(dtype)


def spread(per_group: torch.Tensor, shape: torch.Size, group: int, along_tokens: bool) -> torch.Tensor:
    """Repeat one number per group to get one number per entry, shape (n, d)."""
    dim = 0 if along_tokens else 1
    return per_group.repeat_interleave(group, dim=dim).narrow(dim, 0, shape[dim])


def _grouped(states: torch.Tensor, group: int, dim: int) -> torch.Tensor:
    """Return states with a separate dimension for groups; the last group is padded by repeating the last entry."""
    missing = -states.shape[dim] % group
    if missing:
        last = states.narrow(dim, states.shape[dim] - 1, 1)
        states = torch.cat([states, last.expand(*(missing if i == dim else -1 for i in range(2)))], dim=dim)
    return states.unflatten(dim, (-1, group))


def _unit(bits: int) -> tuple[int, int]:
    """Return the smallest number of codes that fills whole bytes, and the number of these bytes."""
    bytes_ = bits // math.gcd(bits, 8)
    return bytes_ * 8 // bits, bytes_
