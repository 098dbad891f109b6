"""The router that takes the state of the cache into account."""

from __future__ import annotations

import math

import pytest
import torch

from tests.routers.making import ALL, NAMES, features, make


def test_only_a_cache_aware_pikv_router_sees_the_cache():
    changed = features()
    for index, name in enumerate(NAMES):
        if name.startswith(("missed/", "context_length", "keep_share")):
            changed[..., index] += torch.linspace(-1, 1, 12).view(2, 6) * (index + 1)
    blind = make("pikv", cache_aware=False, top_k=4)
    seeing = make("pikv", top_k=4)
    assert torch.equal(blind(0, changed, ALL)[0], blind(0, features(), ALL)[0])
    assert torch.equal(blind(0, features(), ALL)[0], make("base", top_k=4)(0, features(), ALL)[0])
    assert not torch.allclose(seeing(0, changed, ALL)[0], seeing(0, features(), ALL)[0])


def test_the_pikv_prior_penalises_missed_attention():
    given = torch.zeros(1, 6, len(NAMES))
    given[..., NAMES.index("missed/b")] = 0.5
    weights, _ = make("pikv", top_k=4)(0, given, ALL)
    assert (weights[0, 0, 1] / weights[0, 0, 0]).item() == pytest.approx(math.exp(-0.5))
