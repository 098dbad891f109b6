"""Unfitted routers and random features."""

from __future__ import annotations

import torch

from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routers.feature_names import feature_names

EXPERTS = ("a", "b", "c", "d")


NAMES = feature_names(EXPERTS)


ALL = torch.ones(4, dtype=torch.bool)


def make(name="base", prior=(1.0, 1.0, 1.0, 1.0), heads=6, **settings):
    return ROUTERS[name](prior, NAMES, 2, heads, RouterSettings(**settings))


def features(batch=2, heads=6, seed=0):
    return torch.randn(batch, heads, len(NAMES), generator=torch.Generator().manual_seed(seed))
