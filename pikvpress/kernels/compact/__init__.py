"""Keeping some rows of a cache."""

from pikvpress.kernels.compact.reference import gather_rows, highest, select

__all__ = ["gather_rows", "highest", "select"]
