import math

import pytest
import torch

from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routers.eplb import _Matching
from pikvpress.routers.feature_names import feature_names

EXPERTS = ("a", "b", "c", "d")
NAMES = feature_names(EXPERTS)
ALL = torch.ones(4, dtype=torch.bool)


def make(name="base", prior=(1.0, 1.0, 1.0, 1.0), heads=6, **settings):
    return ROUTERS[name](prior, NAMES, 2, heads, RouterSettings(**settings))


def features(batch=2, heads=6, seed=0):
    return torch.randn(batch, heads, len(NAMES), generator=torch.Generator().manual_seed(seed))


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


def test_only_a_cache_aware_pikv_router_sees_the_cache():
    changed = features()
    for index, name in enumerate(NAMES):
        if name.startswith(("missed/", "context_length", "keep_share")):
            changed[..., index] += torch.linspace(-1, 1, 12).view(2, 6) * (index + 1)
    blind = make("pikv", cache_aware=False, top_k=4)
    seeing = make("pikv", top_k=4)
    assert torch.equal(blind(0, changed, ALL)[0], blind(0, features(), ALL)[0])
    assert torch.equal(blind(0, features(), ALL)[0], make("base", top_k=4)(0, features(), ALL)[0])
    assert not torch.allclose(seeing(0, changed, ALL)[0], seeing(0, features(), ALL)[0])


def test_the_pikv_prior_penalises_missed_attention():
    given = torch.zeros(1, 6, len(NAMES))
    given[..., NAMES.index("missed/b")] = 0.5
    weights, _ = make("pikv", top_k=4)(0, given, ALL)
    assert (weights[0, 0, 1] / weights[0, 0, 0]).item() == pytest.approx(math.exp(-0.5))


def test_adaptive_uses_one_expert_where_sure_and_several_where_not():
    given = torch.zeros(1, 6, len(NAMES))
    given[:, 0, 2] = -20.0  # expert c is far better in head 0
    weights, _ = make("adaptive", top_k=4, importance_threshold=0.6)(0, given, ALL)
    assert (weights[0, 0] > 0).sum() == 1
    assert (weights[0, 1] > 0).sum() == 3


def test_adaptive_top_k_makes_any_router_adaptive():
    given = torch.zeros(1, 6, len(NAMES))
    given[:, 0, 2] = -20.0
    weights, _ = make("base", top_k=3, adaptive_top_k=True, importance_threshold=0.4)(0, given, ALL)
    assert [(row > 0).sum().item() for row in weights[0]] == [1, 2, 2, 2, 2, 2]


def test_static_does_not_look_at_the_input():
    router = make("static", prior=(1.0, 2.0, 1.0, 1.0))
    first, second = (router(0, features(seed=seed), ALL).weights for seed in (0, 1))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first[0, 0], torch.tensor([0.2, 0.4, 0.2, 0.2]))
    assert not torch.equal(make("base")(0, features(), ALL).weights, first)


def test_hierarchical_stays_inside_the_best_group():
    given = torch.zeros(1, 6, len(NAMES))
    given[..., 3] = -2.0  # d is best, so the group (c, d) is
    weights, _ = make("hierarchical", top_k=2, num_groups=2, group_top_k=1)(0, given, ALL)
    assert ((weights > 0) == torch.tensor([False, False, True, True])).all()
    both, _ = make("hierarchical", top_k=4, num_groups=2, group_top_k=2)(0, given, ALL)
    assert (both > 0).all()


def test_eplb_gives_every_expert_the_same_number_of_heads():
    for seed in range(20):
        weights, _ = make("eplb", heads=8, top_k=2)(0, features(3, 8, seed), ALL)
        assert ((weights > 0).sum(dim=1) == 4).all()
        assert ((weights > 0).sum(dim=2) == 2).all()


def test_eplb_exceeds_balance_by_no_more_than_the_capacity_factor():
    given = torch.zeros(1, 8, len(NAMES))
    given[..., 0] = -3.0  # every head wants expert a
    exact, _ = make("eplb", heads=8, top_k=1)(0, given, ALL)
    loose, _ = make("eplb", heads=8, top_k=1, capacity_factor=1.5)(0, given, ALL)
    assert (exact > 0).sum(dim=1).tolist() == [[2, 2, 2, 2]]
    assert (loose > 0).sum(dim=1)[0, 0] == 3


@pytest.mark.parametrize("heads", range(1, 8))
@pytest.mark.parametrize("experts", range(1, 6))
def test_matching_is_balanced_whatever_the_sizes(heads, experts):
    generator = torch.Generator().manual_seed(heads * 10 + experts)
    for top_k in range(1, experts + 1):
        affinity = torch.rand(heads, experts, generator=generator).tolist()
        capacity = max(heads * top_k // experts, math.ceil(heads / experts))
        pairs = _Matching(affinity, [top_k] * heads, capacity).pairs
        loads = [sum(expert == e for _, expert in pairs) for e in range(experts)]
        served = [sum(head == h for head, _ in pairs) for h in range(heads)]
        assert max(loads) <= capacity
        assert min(served) >= 1 and max(served) <= top_k
        if experts * capacity <= heads * top_k:
            assert loads == [capacity] * experts


def test_fitting_sees_dropout_and_gradients():
    router = make("topk_balanced", top_k=2, dropout=0.5)
    router.train()
    weights, loss = router(0, features(), ALL)
    again, _ = router(0, features(), ALL)
    assert not torch.equal(weights, again)
    (weights[..., 0].sum() + loss).backward()
    assert router.static.grad.abs().sum() > 0
    assert router.evidence.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"top_k": 0}, ValueError, "top_k must be at least 1"),
        ({"top_k": 1.5}, TypeError, "top_k must be a whole number"),
        ({"temperature": 0.0}, ValueError, r"temperature must lie in \(0, inf\)"),
        ({"temperature": float("nan")}, ValueError, "temperature"),
        ({"dropout": 1.0}, ValueError, r"dropout must lie in \[0, 1\)"),
        ({"importance_threshold": 1.2}, ValueError, r"importance_threshold must lie in \[0, 1\]"),
        ({"capacity_factor": 0.5}, ValueError, "capacity_factor"),
        ({"aux_loss_weight": -1}, ValueError, "aux_loss_weight"),
        ({"balance_coefficient": "x"}, TypeError, "balance_coefficient must be a number"),
        ({"balance_mode": "mean"}, ValueError, "entropy, variance, gini"),
        ({"cache_aware": 1}, TypeError, "cache_aware must be True or False"),
        ({"num_groups": 2, "group_top_k": 3}, ValueError, "group_top_k=3 chooses more groups"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        RouterSettings(**settings)


def test_more_experts_or_groups_than_there_are():
    with pytest.raises(ValueError, match="top_k=5 chooses more experts than the 4"):
        make(top_k=5)
    with pytest.raises(ValueError, match="num_groups=5 leaves groups empty"):
        make("hierarchical", num_groups=5)


def test_unknown_routers_name_the_near_ones():
    with pytest.raises(ValueError, match="unknown router_type 'adaptve': did you mean adaptive"):
        ROUTERS["adaptve"]
