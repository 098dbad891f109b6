"""The attention that probe queries pay to keys."""

from pikvpress.kernels.probe_scores.reference import probe_scores

__all__ = ["probe_scores"]
