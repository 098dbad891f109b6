"""Packing on a CPU: rows are quantised and packed in one pass, on as many threads as torch has."""

from __future__ import annotations

import torch

from pikvpress.kernels.packing import loops
from pikvpress.kernels.packing.reference import scales_of
from pikvpress.kernels.threads import CREW


def quantise_and_pack(
    states: torch.Tensor, bits: int, group: int, along_tokens: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantise and pack rows, to the same bytes as the reference."""
    scale, zero = scales_of(states, bits, group, along_tokens)
    rows, width = states.shape
    packed = torch.empty(rows, width * bits // 8, dtype=torch.uint8)
    of_groups = (scale.float().numpy(), zero.float().numpy())
    numbers, bytes_ = states.detach().float().contiguous().numpy(), packed.numpy()
    pack = loops.pack_keys if along_tokens else loops.pack_values
    CREW.run_rows(lambda first, last: pack(numbers, *of_groups, group, bits, first, last, bytes_), rows)
    return packed, scale, zero
