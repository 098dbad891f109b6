import pytest
import torch

from pikvpress.routers.losses import imbalance, switch_loss


def test_switch_loss_is_1_for_uniform_use_and_e_for_collapse():
    uniform = torch.full((8, 4), 0.25)
    spread = torch.eye(4, dtype=torch.bool).repeat(2, 1)
    assert switch_loss(uniform, spread).item() == pytest.approx(1)
    collapsed = torch.zeros(8, 4)
    collapsed[:, 0] = 1
    assert switch_loss(collapsed, collapsed.bool()).item() == pytest.approx(4)


def test_switch_loss_by_hand():
    probabilities = torch.tensor([[0.6, 0.4], [0.9, 0.1]])
    chosen = torch.tensor([[True, False], [True, False]])
    assert switch_loss(probabilities, chosen).item() == pytest.approx(2 * (1.0 * 0.75 + 0.0 * 0.25))


@pytest.mark.parametrize("mode", ["entropy", "variance", "gini"])
def test_imbalance_is_0_for_even_use_and_grows(mode):
    even = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    tilted = torch.tensor([[0.6, 0.4]])
    collapsed = torch.tensor([[1.0, 0.0]])
    assert imbalance(even, mode).item() == pytest.approx(0, abs=1e-6)
    assert 0 < imbalance(tilted, mode) < imbalance(collapsed, mode)


def test_imbalance_by_hand():
    mean = torch.tensor([[0.7, 0.2, 0.1]])
    entropy = -(mean * mean.log()).sum() / torch.tensor(3.0).log()
    assert imbalance(mean, "entropy").item() == pytest.approx(1 - entropy.item())
    assert imbalance(mean, "variance").item() == pytest.approx(3 * ((mean - 1 / 3) ** 2).sum().item())
    assert imbalance(mean, "gini").item() == pytest.approx((0.5 + 0.6 + 0.1) * 2 / 6)


def test_a_single_expert_is_never_out_of_balance():
    for mode in ("entropy", "variance", "gini"):
        assert imbalance(torch.ones(3, 1), mode).item() == 0


def test_unknown_mode():
    with pytest.raises(ValueError, match="'entropy', 'variance' or 'gini'"):
        imbalance(torch.ones(1, 2), "mean")
