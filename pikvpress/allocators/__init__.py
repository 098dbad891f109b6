"""How a budget is shared out over layers and heads."""

from pikvpress.allocators.by_bytes import spend_bytes
from pikvpress.allocators.fitted import fitted_counts
from pikvpress.allocators.marginal import marginal_errors
from pikvpress.allocators.pooled import pooled
from pikvpress.allocators.pyramid import pyramid_counts

__all__ = ["fitted_counts", "marginal_errors", "pooled", "pyramid_counts", "spend_bytes"]
