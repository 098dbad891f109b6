"""Compaction: keeping some of the rows of a cache."""

from pikvpress.kernels.by_device import by_device
from pikvpress.kernels.compact import reference
from pikvpress.kernels.compact.reference import Compacted, Packed, gather_rows, highest, select

compact_rows = by_device(reference.compact_rows)
compact_and_pack = by_device(reference.compact_and_pack)

__all__ = ["Compacted", "Packed", "compact_and_pack", "compact_rows", "gather_rows", "highest", "select"]
