"""Guarantees of every router."""

from __future__ import annotations

import pytest
import torch

from pikvpress.routers import ROUTERS
from tests.routers.making import ALL, NAMES, features, make


@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_weights_are_few_non_negative_and_sum_to_1(name, top_k):
    weights, loss = make(name, top_k=top_k)(1, features(), ALL)
    assert weights.shape == (2, 6, 4)
    assert (weights >= 0).all()
    assert ((weights > 0).sum(dim=-1) <= top_k).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 6))
    assert loss.shape == ()


@pytest.mark.parametrize("name", ROUTERS)
def test_experts_that_are_not_available_get_nothing(name):
    available = torch.tensor([False, True, False, True])
    weights, _ = make(name)(0, features(), available)
    assert (weights[..., ~available] == 0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 6))


@pytest.mark.parametrize("name", ROUTERS)
def test_a_sequence_is_routed_alike_alone_and_in_a_batch(name):
    router = make(name, top_k=2)
    together, _ = router(0, features(), ALL)
    alone, _ = router(0, features()[1:], ALL)
    torch.testing.assert_close(together[1:], alone)


@pytest.mark.parametrize("name", ROUTERS)
def test_the_same_input_gives_the_same_output_in_half_precision_too(name):
    router = make(name, dropout=0.5)
    first, _ = router(0, features().bfloat16(), ALL)
    second, _ = router(0, features().bfloat16(), ALL)
    assert torch.equal(first, second)
    assert not router.training


def test_the_prior_is_the_weight_over_the_root_of_the_error():
    log_error = torch.tensor([0.3, -0.1, 0.2, -0.4])
    given = torch.zeros(1, 6, len(NAMES))
    given[..., :4] = log_error - log_error.mean()
    weights, _ = make(prior=(2.0, 2.0, 1.0, 1.0), top_k=4)(0, given, ALL)
    expected = torch.tensor([2.0, 2.0, 1.0, 1.0]) / log_error.exp().sqrt()
    torch.testing.assert_close(weights[0, 0], expected / expected.sum())


def test_temperature_sharpens_and_evens_out():
    sharp, _ = make(top_k=4, temperature=0.1)(0, features(), ALL)
    even, _ = make(top_k=4, temperature=10.0)(0, features(), ALL)
    assert (sharp.amax(dim=-1) > even.amax(dim=-1)).all()


def test_adaptive_top_k_makes_any_router_adaptive():
    given = torch.zeros(1, 6, len(NAMES))
    given[:, 0, 2] = -20.0
    weights, _ = make("base", top_k=3, adaptive_top_k=True, importance_threshold=0.4)(0, given, ALL)
    assert [(row > 0).sum().item() for row in weights[0]] == [1, 2, 2, 2, 2, 2]


def test_more_experts_or_groups_than_there_are():
    with pytest.raises(ValueError, match="top_k=5 chooses more experts than the 4"):
        make(top_k=5)
    with pytest.raises(ValueError, match="num_groups=5 leaves groups empty"):
        make("hierarchical", num_groups=5)


def test_unknown_routers_name_the_near_ones():
    with pytest.raises(ValueError, match="unknown router_type 'adaptve': did you mean adaptive"):
        ROUTERS["adaptve"]
