"""How a budget of tokens is shared out over layers and heads."""

from pikvpress.allocators.by_bytes import spend_bytes
from pikvpress.allocators.fitted import fitted_counts

__all__ = ["fitted_counts", "spend_bytes"]
