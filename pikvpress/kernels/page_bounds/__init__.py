"""Pages of keys: their bounds, upper bounds of a query's products with their keys, and the best pages."""

from pikvpress.kernels.by_device import by_device
from pikvpress.kernels.page_bounds import reference
from pikvpress.kernels.page_bounds.reference import select_pages

page_bounds = by_device(reference.page_bounds)
page_scores = by_device(reference.page_scores)

__all__ = ["page_bounds", "page_scores", "select_pages"]
