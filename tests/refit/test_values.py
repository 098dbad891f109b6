"""Values refitted in closed form."""

from __future__ import annotations

import pytest
import torch

from pikvpress.refit.values import refit_values


def problem(queries, keys, kept, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(count, 8, generator=generator) for count in (queries, keys, keys))
    wanted = (q @ k.T * 0.5).softmax(dim=-1) @ v
    return q, wanted, k[:kept], v[:kept]


@pytest.mark.parametrize(("queries", "kept"), [(40, 10), (40, 40), (10, 40)])
def test_they_minimise_the_regularised_error(queries, kept):
    q, wanted, keys, values = problem(queries, 60, kept)
    found = refit_values(q, wanted, keys, values, scaling=0.5, ridge=0.2)
    attention = (q @ keys.T * 0.5).softmax(dim=-1)
    penalty = 0.2 * attention.square().sum(dim=0).mean()
    gradient = attention.T @ (attention @ found - wanted) + penalty * (found - values)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-5, rtol=0)


def test_attention_over_the_kept_comes_close_to_attention_over_all():
    q, wanted, keys, values = problem(64, 60, 20)
    attention = (q @ keys.T * 0.5).softmax(dim=-1)
    before = (attention @ values - wanted).norm()
    assert (attention @ refit_values(q, wanted, keys, values, scaling=0.5, ridge=1e-3) - wanted).norm() < 0.7 * before


def test_a_strong_ridge_changes_nothing_and_neither_does_an_exact_fit():
    q, wanted, keys, values = problem(40, 60, 20)
    torch.testing.assert_close(refit_values(q, wanted, keys, values, 0.5, ridge=1e7), values, atol=1e-5, rtol=0)
    whole = (q @ keys.T * 0.5).softmax(dim=-1) @ values
    torch.testing.assert_close(refit_values(q, whole, keys, values, 0.5), values, atol=1e-5, rtol=0)
