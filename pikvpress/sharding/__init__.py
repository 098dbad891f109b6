"""One cache over several ranks: which rank holds what."""

from pikvpress.sharding.placement import Piece, Placement, divided, longest_first, round_robin

__all__ = ["Piece", "Placement", "divided", "longest_first", "round_robin"]
