"""Many selections measured with one pass over the keys."""

from __future__ import annotations

import torch

from pikvpress.kernels.retained_error import reference
from pikvpress.kernels.retained_error.by_runs import FEWEST_KEYS, measure, worthwhile


def test_it_is_the_definition():
    torch.manual_seed(0)
    queries, keys, values = torch.randn(2, 6, 9, 16), torch.randn(2, 3, 200, 16), torch.randn(2, 3, 200, 16)
    kept = torch.rand(2, 3, 4, 200) < torch.tensor([0.1, 0.5, 0.9, 1.0])[:, None]
    found = measure(queries, keys, values, kept, 0.3)
    for one, other in zip(found, reference.measure(queries, keys, values, kept, 0.3), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_it_pays_where_runs_are_long_enough():
    keys = torch.zeros(1, 1, 4 * FEWEST_KEYS, 8)
    assert worthwhile(keys, torch.zeros(1, 1, 2, 1)) and not worthwhile(keys, torch.zeros(1, 1, 3, 1))
