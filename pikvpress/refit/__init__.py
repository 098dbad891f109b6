"""Values that are refitted, so that kept entries stand in for removed ones."""

from pikvpress import needs_kvpress  # noqa: F401  # first: it says what is missing
from pikvpress.refit.layer import refit
from pikvpress.refit.references import OWN, references
from pikvpress.refit.values import RIDGE, refit_values

__all__ = ["OWN", "RIDGE", "references", "refit", "refit_values"]
