"""One cache over several ranks: which rank holds what, and how what they read is put together."""

from pikvpress.sharding.merging import merged
from pikvpress.sharding.placement import HeadPiece, Placement, divided, longest_first, round_robin

__all__ = ["HeadPiece", "Placement", "divided", "longest_first", "merged", "round_robin"]
