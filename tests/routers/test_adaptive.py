"""The less certain a gate is, the more experts it uses."""

from __future__ import annotations

import torch

from tests.routers.making import ALL, NAMES, make


def test_adaptive_uses_one_expert_where_sure_and_several_where_not():
    given = torch.zeros(1, 6, len(NAMES))
    given[:, 0, 2] = -20.0  # expert c is far better in head 0
    weights, _ = make("adaptive", top_k=4, importance_threshold=0.6)(0, given, ALL)
    assert (weights[0, 0] > 0).sum() == 1
    assert (weights[0, 1] > 0).sum() == 3
