"""What attention loses when only some keys are kept."""

from __future__ import annotations

import torch

from pikvpress.kernels.retained_error import by_runs, reference
from pikvpress.kernels.retained_error.reference import Measurement


@torch.no_grad()
def measure(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, kept: torch.Tensor, scaling: float
) -> Measurement:
    """Measure the retained error of several selections of keys for probe queries; see the reference."""
    form = by_runs if by_runs.worthwhile(keys, kept) else reference
    return form.measure(queries, keys, values, kept, scaling)


__all__ = ["Measurement", "measure"]
