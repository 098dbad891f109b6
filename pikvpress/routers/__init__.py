"""Routers: from head features to gate weights. They know tensors, not models."""

from __future__ import annotations

import difflib

from pikvpress.routers.adaptive import AdaptiveRouter
from pikvpress.routers.base import Router, Routing
from pikvpress.routers.eplb import EPLBRouter
from pikvpress.routers.hierarchical import HierarchicalRouter
from pikvpress.routers.pikv import PiKVRouter
from pikvpress.routers.settings import RouterSettings
from pikvpress.routers.static import StaticRouter
from pikvpress.routers.topk_balanced import TopKBalancedRouter

ROUTERS: dict[str, type[Router]] = {
    "base": Router,
    "topk_balanced": TopKBalancedRouter,
    "adaptive": AdaptiveRouter,
    "pikv": PiKVRouter,
    "eplb": EPLBRouter,
    "hierarchical": HierarchicalRouter,
    "static": StaticRouter,
}


def router_class(name: str) -> type[Router]:
    """Return the router class of that name.

    Raises
    ------
    ValueError
        For an unknown name: names the nearest and all known ones.
    """
    if name not in ROUTERS:
        near = difflib.get_close_matches(str(name), ROUTERS, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"unknown router_type {name!r}: {hint}known are {', '.join(ROUTERS)}")
    return ROUTERS[name]


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
    "router_class",
]
