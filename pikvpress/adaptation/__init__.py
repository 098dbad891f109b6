"""Adapters that make up for what a compressed cache has lost."""

from pikvpress import needs_kvpress  # noqa: F401  # first: it says what is missing
from pikvpress.adaptation.adapt import Adaptation, adapt
from pikvpress.adaptation.recipe import AdaptationRecipe

__all__ = ["Adaptation", "AdaptationRecipe", "adapt"]
