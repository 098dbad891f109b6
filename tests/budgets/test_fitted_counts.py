import itertools

import pytest
import torch

from pikvpress.budgets import fitted_counts

SHARES = (1.0, 0.5, 0.25, 0.125)


def test_tokens_go_where_they_remove_most_error():
    curves = torch.tensor([[[0.0, 0.0, 0.0, 0.1]], [[0.0, 4.0, 6.0, 7.0]]])
    assert fitted_counts(curves, SHARES, 80, 40).tolist() == [[10], [70]]


def test_the_budget_is_spent_whole():
    generator = torch.Generator().manual_seed(0)
    for num_keys, num_kept in itertools.product((7, 100, 1001), (1, 3, 7)):
        curves = torch.rand(3, 2, 4, generator=generator)
        counts = fitted_counts(curves, SHARES, num_keys, num_kept)
        assert counts.sum() == 6 * num_kept
        assert counts.min() >= 1 and counts.max() <= num_keys


def test_convex_curves_are_allotted_optimally():
    generator = torch.Generator().manual_seed(1)
    drops = torch.rand(3, 3, generator=generator).sort(dim=-1).values  # steeper where few are kept
    width = torch.tensor([50, 25, 12])
    errors = torch.cat([torch.zeros(3, 1), (drops * width).cumsum(dim=-1)], dim=-1)
    shares = (1.0, 0.5, 0.25, 0.13)
    total = 3 * 40

    def error(head, count):
        points = [100, 50, 25, 13]
        row = errors[head].tolist()
        for (high, low), (small, large) in zip(itertools.pairwise(points), itertools.pairwise(row), strict=True):
            if low <= count <= high:
                return small + (large - small) * (high - count) / (high - low)
        return float("inf")

    counts = fitted_counts(errors.unsqueeze(0), shares, 100, 40)[0].tolist()
    found = sum(error(head, count) for head, count in enumerate(counts))
    tried = (
        error(0, a) + error(1, b) + error(2, total - a - b)
        for a in range(13, 101)
        for b in range(13, 101)
        if 13 <= total - a - b <= 100
    )
    assert found == pytest.approx(min(tried), abs=1e-4)


def test_layers_without_a_curve_take_no_part():
    curves = torch.tensor([[[0.0, 1.0, 2.0, 3.0]], [[float("nan")] * 4]])
    assert fitted_counts(curves, SHARES, 80, 20).tolist() == [[20], [0]]
