"""One cache over several ranks: which rank holds what, and how what they read is put together."""

from pikvpress.sharding.hierarchical import hierarchical
from pikvpress.sharding.merging import merged
from pikvpress.sharding.placement import HeadPiece, Placement, divided, longest_first, round_robin
from pikvpress.sharding.timed import RankSpeed, earliest_first, least_seconds, slowest

__all__ = [
    "HeadPiece",
    "Placement",
    "RankSpeed",
    "divided",
    "earliest_first",
    "hierarchical",
    "least_seconds",
    "longest_first",
    "merged",
    "round_robin",
    "slowest",
]
