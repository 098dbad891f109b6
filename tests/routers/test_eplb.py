"""Exactly balanced experts."""

from __future__ import annotations

import math

import pytest
import torch

from pikvpress.routers.eplb import _Matching
from tests.routers.making import ALL, NAMES, features, make


def test_eplb_gives_every_expert_the_same_number_of_heads():
    for seed in range(20):
        weights, _ = make("eplb", heads=8, top_k=2)(0, features(3, 8, seed), ALL)
        assert ((weights > 0).sum(dim=1) == 4).all()
        assert ((weights > 0).sum(dim=2) == 2).all()


def test_eplb_exceeds_balance_by_no_more_than_the_capacity_factor():
    given = torch.zeros(1, 8, len(NAMES))
    given[..., 0] = -3.0  # every head wants expert a
    exact, _ = make("eplb", heads=8, top_k=1)(0, given, ALL)
    loose, _ = make("eplb", heads=8, top_k=1, capacity_factor=1.5)(0, given, ALL)
    assert (exact > 0).sum(dim=1).tolist() == [[2, 2, 2, 2]]
    assert (loose > 0).sum(dim=1)[0, 0] == 3


@pytest.mark.parametrize("heads", range(1, 8))
@pytest.mark.parametrize("experts", range(1, 6))
def test_matching_is_balanced_whatever_the_sizes(heads, experts):
    generator = torch.Generator().manual_seed(heads * 10 + experts)
    for top_k in range(1, experts + 1):
        affinity = torch.rand(heads, experts, generator=generator).tolist()
        capacity = max(heads * top_k // experts, math.ceil(heads / experts))
        pairs = _Matching(affinity, [top_k] * heads, capacity).pairs
        loads = [sum(expert == e for _, expert in pairs) for e in range(experts)]
        served = [sum(head == h for head, _ in pairs) for h in range(heads)]
        assert max(loads) <= capacity
        assert min(served) >= 1 and max(served) <= top_k
        if experts * capacity <= heads * top_k:
            assert loads == [capacity] * experts
