import pytest
import torch

from pikvpress.budgets import fitted_counts, marginal_errors

SHARES = (1.0, 0.5, 0.25, 0.125)


def test_the_slope_of_a_piece_stands_in_its_middle():
    curve = torch.tensor([[0.0, 10.0, 30.0, 50.0]])  # slopes 2, 1.2 and 0.2 over 10 to 20, 20 to 40 and 40 to 80 keys
    found = marginal_errors(curve, SHARES, 80)
    assert found.shape == (1, 80) and found.dtype == torch.float32
    for middle, slope in ((15, 2.0), (30, 1.0), (60, 0.25)):
        assert found[0, middle - 1 : middle + 1].mean().item() == pytest.approx(slope, rel=0.05)
    assert found[0, 0].item() == pytest.approx(4.0, rel=0.02) and found[0, -1].item() < 0.01
    assert (found.diff() < 0).all()


def test_the_largest_are_about_what_the_curves_allot():
    torch.manual_seed(0)
    drops = torch.rand(4, 3).sort(dim=-1).values * torch.tensor([400, 200, 100])
    curves = torch.cat([torch.zeros(4, 1), drops.cumsum(dim=-1)], dim=-1)
    worth = marginal_errors(curves, SHARES, 800)
    largest = worth.flatten().topk(4 * 300).indices // 800
    counts = torch.bincount(largest, minlength=4)
    expected = fitted_counts(curves[None], SHARES, 800, 300)[0]
    assert (counts - expected).abs().max() <= 150  # a segment need not be taken whole


def test_a_head_that_loses_nothing_is_worth_nothing():
    assert marginal_errors(torch.zeros(1, 4), SHARES, 16).tolist() == [[0.0] * 16]
