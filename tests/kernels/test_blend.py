import torch

from pikvpress.kernels.blend import blend, ranks, transport


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
