import pytest
import torch

from benchmarks.kernels.operations.blend import BLEND, BLENDED_RANKS, RANKS
from pikvpress.kernels.blend import blend, blended_ranks, ranks, transport

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_ranks_run_from_0_to_1_and_ties_share_theirs():
    scores = torch.tensor([[3.0, 1.0, 1.0, 9.0, -torch.inf]])
    assert ranks(scores).tolist() == [[0.75, 0.375, 0.375, 1.0, 0.0]]


def test_ranks_of_equal_scores_are_all_the_same():
    assert ranks(torch.zeros(4)).tolist() == [0.5] * 4
    assert ranks(torch.zeros(1)).tolist() == [0.0]


def test_ranks_do_not_depend_on_scale():
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 50)
    torch.testing.assert_close(ranks(scores), ranks(scores.exp() * 1e6))


def test_ranks_take_half_precision_and_slices():
    scores = torch.randn(1, 2, 40).bfloat16()[..., ::2]
    assert ranks(scores).dtype == torch.float32
    assert ranks(scores).shape == (1, 2, 20)


def test_a_rank_counts_lower_scores_and_half_of_the_other_equal_ones():
    torch.manual_seed(0)
    for score_row in torch.randint(0, 12, (3, 29)).float():
        expected = [
            (sum(other < score for other in score_row) + (sum(other == score for other in score_row) - 1) / 2) / 28
            for score in score_row
        ]
        torch.testing.assert_close(ranks(score_row), torch.stack(expected))


def test_blend_weighs_each_head_by_its_own_weights():
    ranked = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]])
    weights = torch.tensor([[[0.25, 0.75], [1.0, 0.0]]])
    assert blend(ranked, weights).tolist() == [[[0.75, 0.25], [0.0, 1.0]]]


def test_transport_keeps_the_order_and_takes_the_masses():
    torch.manual_seed(0)
    order, mass = torch.randn(2, 3, 100), torch.randn(2, 3, 100).softmax(dim=-1)
    moved = transport(order, mass)
    assert torch.equal(moved.argsort(dim=-1), order.argsort(dim=-1))
    torch.testing.assert_close(moved.sort(dim=-1).values, mass.sort(dim=-1).values, atol=1e-7, rtol=1e-5)


def test_transport_keeps_the_order_where_masses_underflow():
    order = torch.randperm(1000).float().view(1, 1, -1)
    mass = torch.zeros(1, 1, 1000)
    mass[..., 0] = 1
    assert torch.equal(transport(order, mass).argsort(dim=-1), order.argsort(dim=-1))


def test_blended_ranks_are_the_blend_of_the_ranks():
    torch.manual_seed(0)
    scores, weights = torch.randn(2, 3, 4, 50).round(), torch.rand(2, 3, 4)
    expected = torch.zeros(2, 3, 50)
    for expert in range(4):
        expected += weights[:, :, expert, None] * ranks(scores[:, :, expert])
    torch.testing.assert_close(blended_ranks(scores, weights), expected)


@pytest.mark.parametrize("scores", [torch.zeros(1, 3000), torch.arange(3000.0).div(700).floor().flip(0)[None]])
def test_the_kernel_finds_the_ends_of_runs_of_equal_scores_in_other_tiles(scores):
    assert torch.equal(RANKS.kernel(scores.to(DEVICE)).cpu(), ranks(scores))


def test_the_kernel_sorts_signed_zeros_and_infinities_as_torch_does():
    scores = torch.tensor([[0.0, -0.0, torch.inf, -torch.inf, 1e-45, torch.inf, 0.0]])
    assert torch.equal(RANKS.kernel(scores.to(DEVICE)).cpu(), ranks(scores))


def test_keys_of_equal_ranks_get_the_very_same_blend():
    torch.manual_seed(0)
    scores = torch.randn(1, 2, 5, 600, device=DEVICE).repeat(1, 1, 1, 2)
    blended = BLENDED_RANKS.kernel(scores, torch.rand(1, 2, 5, device=DEVICE).softmax(dim=-1))
    assert torch.equal(blended[..., :600], blended[..., 600:])


def test_ranks_of_experts_without_a_weight_are_not_read():
    ranked = torch.rand(1, 1, 3, 70, device=DEVICE)
    ranked[:, :, 1] = torch.nan
    blended = BLEND.kernel(ranked, torch.tensor([[[0.25, 0.0, 0.75]]], device=DEVICE))
    torch.testing.assert_close(blended, 0.25 * ranked[:, :, 0] + 0.75 * ranked[:, :, 2])


def test_a_grid_takes_more_rows_than_its_second_dimension_would():
    triton = pytest.importorskip("pikvpress.kernels.blend.triton")
    assert triton._grid(torch.empty(9000, 8, 2500, device="meta")) == (3 * 72000,)
