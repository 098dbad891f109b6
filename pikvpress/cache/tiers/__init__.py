"""Where the layers of a cache lie: on the device, in the host's memory, or in mapped files."""

from pikvpress.cache.tiers.tiers import TIERS, Tiers

__all__ = ["TIERS", "Tiers"]
