"""Groups first, then experts."""

from __future__ import annotations

import torch

from tests.routers.making import ALL, NAMES, make


def test_hierarchical_stays_inside_the_best_group():
    given = torch.zeros(1, 6, len(NAMES))
    given[..., 3] = -2.0  # d is best, so the group (c, d) is
    weights, _ = make("hierarchical", top_k=2, num_groups=2, group_top_k=1)(0, given, ALL)
    assert ((weights > 0) == torch.tensor([False, False, True, True])).all()
    both, _ = make("hierarchical", top_k=4, num_groups=2, group_top_k=2)(0, given, ALL)
    assert (both > 0).all()
