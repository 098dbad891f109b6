"""Presses: what a kvpress user puts around a model."""

from pikvpress.presses.moe_router_press import MoERouterPress
from pikvpress.presses.per_layer_press import PerLayerPress

__all__ = ["MoERouterPress", "PerLayerPress"]
