"""Presses, which kvpress users apply to a model."""

from pikvpress import needs_kvpress  # noqa: F401  # first: it says what is missing
from pikvpress.presses.fastv_press import FastVPress
from pikvpress.presses.image_budget_press import ImageBudgetPress
from pikvpress.presses.moe_router_press import MoERouterPress
from pikvpress.presses.per_layer_press import PerLayerPress
from pikvpress.presses.pikv_press import PiKVPress
from pikvpress.presses.saliency_press import SaliencyPress

__all__ = ["FastVPress", "ImageBudgetPress", "MoERouterPress", "PerLayerPress", "PiKVPress", "SaliencyPress"]
