"""Objectives against their formulas, computed the long way."""

from __future__ import annotations

import math

import pytest
import torch

from pikvpress.calibration.fit.objectives import OBJECTIVES, kl, skew_kl, skew_reverse_kl

P, Q = [[0.5, 0.3, 0.2], [0.9, 0.1, 0.0]], [[0.2, 0.2, 0.6], [0.25, 0.5, 0.25]]


def logs(rows):
    return torch.tensor(rows, dtype=torch.float64).clamp_min(1e-300).log()


def divergence(first, second):
    return sum(a * math.log(a / b) for a, b in zip(first, second, strict=True) if a)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def mixed(first, second):
    return [0.1 * a + 0.9 * b for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (kl, mean(divergence(p, q) for p, q in zip(P, Q, strict=True))),
        (skew_kl, mean(divergence(p, mixed(p, q)) for p, q in zip(P, Q, strict=True))),
        (skew_reverse_kl, mean(divergence(q, mixed(q, p)) for p, q in zip(P, Q, strict=True))),
    ],
)
def test_divergences_are_what_their_formulas_say(function, expected):
    assert function(logs(P), logs(Q)).item() == pytest.approx(expected)
    assert function(logs(P), logs(P)).item() == pytest.approx(0, abs=1e-12)


def test_skewed_gradients_stay_bounded_where_the_student_is_surely_wrong():
    def largest_gradient(function):
        logits = torch.tensor([[-60.0, 60.0]], dtype=torch.float64, requires_grad=True)
        function(logs([[1.0, 0.0]]), logits.log_softmax(dim=-1)).backward()
        return logits.grad.abs().max().item()

    assert largest_gradient(kl) == pytest.approx(1)
    assert largest_gradient(skew_kl) < 1e-6


def test_objectives_take_their_divergences_on_the_right_texts():
    assert OBJECTIVES["kl"].terms == (("given", kl),)
    assert OBJECTIVES["contrastive"].terms == (("teacher", skew_kl), ("student", skew_reverse_kl))
    assert OBJECTIVES["speculative"].terms == (("corrected", kl),)
    with pytest.raises(ValueError, match=r"unknown objective 'mse': known are kl, skew_kl"):
        OBJECTIVES["mse"]
