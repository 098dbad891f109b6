"""Routers: from head features to gate weights. They work on tensors, not on models."""

from __future__ import annotations

from pikvpress.routers.adaptive import AdaptiveRouter
from pikvpress.routers.base import Router, Routing
from pikvpress.routers.eplb import EPLBRouter
from pikvpress.routers.hierarchical import HierarchicalRouter
from pikvpress.routers.pikv import PiKVRouter
from pikvpress.routers.settings import RouterSettings
from pikvpress.routers.static import StaticRouter
from pikvpress.routers.topk_balanced import TopKBalancedRouter
from pikvpress.support.registry import Registry

ROUTERS: Registry[type[Router]] = Registry(
    "router_type",
    {
        "base": Router,
        "topk_balanced": TopKBalancedRouter,
        "adaptive": AdaptiveRouter,
        "pikv": PiKVRouter,
        "eplb": EPLBRouter,
        "hierarchical": HierarchicalRouter,
        "static": StaticRouter,
    },
)

__all__ = [
    "ROUTERS",
    "AdaptiveRouter",
    "EPLBRouter",
    "HierarchicalRouter",
    "PiKVRouter",
    "Router",
    "RouterSettings",
    "Routing",
    "StaticRouter",
    "TopKBalancedRouter",
]
