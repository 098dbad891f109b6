"""The definition of rotated codes: vectors, rotated so that all their numbers have similar sizes, in a few bits each.

A fixed random rotation makes the coordinates of any vector nearly normal, so one table of levels serves all vectors:
the levels that round normally distributed numbers with the least error (Lloyd-Max,
https://doi.org/10.1109/TIT.1960.1057548). A vector is stored as its codes and one scale. Hadamard rotations with random
signs come from QuaRot (https://arxiv.org/abs/2404.00456), such levels from TurboQuant
(https://arxiv.org/abs/2504.19874).
"""

from __future__ import annotations

import itertools
import math
import random
from functools import cache

import torch
from torch.nn import functional as F

from pikvpress.kernels.packing import check_scales, pack_bits, unpack_bits

SCALE_DTYPE = torch.float16
SEED = 0  # of the signs; must not change, since stored vectors depend on it
_UPPER = {  # the positive half of the levels
    1: (0.7978846,),
    2: (0.4527800, 1.5104176),
    3: (0.2450942, 0.7560053, 1.3439093, 2.1519457),
    4: (0.1283950, 0.3880483, 0.6567591, 0.9423405, 1.2562312, 1.6180464, 2.0690172, 2.7325896),
}
LEVELS = {bits: (*(-level for level in reversed(upper)), *upper) for bits, upper in _UPPER.items()}


@cache
def rotation(width: int, device: torch.device) -> torch.Tensor:
    """Return the rotation of vectors of this width, float32, shape (width, width): rows x become ``x @ rotation.T``.

    It is the Hadamard matrix with random signs. If the width is not a power of two, blocks whose size is the largest
    power of two that divides it are rotated this way, and mixed by a cosine transform. Every call returns the same.
    """
    size = width & -width
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    while len(hadamard) < size:
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    blocks = width // size
    step = torch.arange(blocks, dtype=torch.float64)
    cosines = torch.cos(math.pi / blocks * (step + 0.5) * step[:, None]) * math.sqrt(2 / blocks)
    cosines[0] = math.sqrt(1 / blocks)
    signs = random.Random(SEED)
    flips = torch.tensor([signs.choice((-1.0, 1.0)) for _ in range(width)], dtype=torch.float64)
    return (torch.kron(cosines, hadamard / math.sqrt(size)) * flips).float().to(device)


def quantise_levels(states: torch.Tensor, bits: int, length: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return codes and scales of vectors that have been rotated.

    A vector u whose codes have the levels l is read back as scale · l. The scale with the least squared error,
    <u, l> / <l, l>, makes vectors too short; with <u, u> / <u, l>, the projection of scale · l on u is u itself. In
    between is a scale that preserves the norm.

    Parameters
    ----------
    states : torch.Tensor
        Shape (n, d).
    bits : int
        Bits per code: 1, 2, 3 or 4.
    length : float
        0 for the scale with the least error, 1 for the one that preserves the projection; 1/2, their geometric mean,
        preserves the norm.

    Returns
    -------
    (torch.Tensor, torch.Tensor)
        Codes, uint8, shape (n, d), in the order of their levels; scales, float16, shape (n,).

    Raises
    ------
    ValueError
        If a scale is too large for float16.
    """
    numbers = states.float()
    size = numbers.norm(dim=1, keepdim=True) / math.sqrt(max(1, states.shape[1]))
    unit = numbers / size.clamp_min(torch.finfo(torch.float32).tiny)
    codes, nearest = _nearest_levels(unit, bits)
    along = torch.linalg.vecdot(unit, nearest)
    least = along / torch.linalg.vecdot(nearest, nearest)
    most = torch.linalg.vecdot(unit, unit) / along.clamp_min(1e-30)
    scales = (size[:, 0] * least ** (1 - length) * most**length).to(SCALE_DTYPE)
    check_scales(states, scales)
    return codes, scales


def pack_levels(states: torch.Tensor, bits: int, length: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `quantise_levels` returns, with its codes packed by `pack_bits`: uint8, shape (n, d · bits / 8)."""
    codes, scales = quantise_levels(states, bits, length)
    return pack_bits(codes, bits), scales


def _nearest_levels(unit: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes of the levels nearest to some numbers, and these levels.

    Codes are found by counting the levels below a number's absolute value; on a CPU, this is twice as fast as a search
    and a look-up.
    """
    size, nearest = unit.abs(), torch.full_like(unit, _UPPER[bits][0])
    codes = torch.full(unit.shape, 2 ** (bits - 1), dtype=torch.uint8, device=unit.device)
    for low, high in itertools.pairwise(_UPPER[bits]):
        above = size > (low + high) / 2
        codes += above
        nearest.add_(above, alpha=high - low)
    codes ^= (unit <= 0).to(torch.uint8).mul_(2**bits - 1)  # the level of the other sign has all bits flipped
    return codes, nearest.copysign_(unit)


def look_up(packed: torch.Tensor, scales: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the vectors that packed codes and scales represent, still rotated.

    Parameters
    ----------
    packed : torch.Tensor
        Codes packed by `pikvpress.kernels.packing.pack_bits`, uint8, shape (n, bytes).
    scales : torch.Tensor
        One scale per vector, shape (n,).
    bits : int
        Bits per code.

    Returns
    -------
    torch.Tensor
        float32, shape (n, d).
    """
    if 8 % bits:
        numbers = levels(bits, packed.device)[unpack_bits(packed, bits).int()]
    else:  # look up a byte at a time
        numbers = F.embedding(packed.int(), _of_bytes(bits, packed.device)).flatten(1)
    return numbers * scales.float()[:, None]


@cache
def levels(bits: int, device: torch.device) -> torch.Tensor:
    """Return the numbers that codes of this many bits represent, ascending, float32."""
    return torch.tensor(LEVELS[bits], device=device)


@cache
def _of_bytes(bits: int, device: torch.device) -> torch.Tensor:
    """Return the numbers that each byte represents, shape (256, 8 / bits)."""
    every = torch.arange(256, dtype=torch.uint8, device=device)[:, None]
    return levels(bits, device)[unpack_bits(every, bits).int()]
