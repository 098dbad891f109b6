"""Codes of rotated vectors on a CPU: found and packed in one pass, on as many threads as torch has."""

from __future__ import annotations

import torch

from pikvpress.kernels.packing import check_scales
from pikvpress.kernels.rotation import loops
from pikvpress.kernels.rotation.reference import SCALE_DTYPE
from pikvpress.kernels.threads import CREW


def pack_levels(states: torch.Tensor, bits: int, length: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise and pack rows as the reference does, but for the rounding of sums."""
    rows, width = states.shape
    packed, scales = torch.empty(rows, width * bits // 8, dtype=torch.uint8), torch.empty(rows)
    given = (states.detach().float().contiguous().numpy(), loops.UPPER[bits], length, bits)
    written = (packed.numpy(), scales.numpy())
    CREW.run_rows(lambda first, last: loops.pack_levels(*given, first, last, *written), rows)
    halves = scales.to(SCALE_DTYPE)
    check_scales(states, halves)
    return packed, halves
