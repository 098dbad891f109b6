"""Fitting on tiny models: what is fitted must lose less, and the settings must do what they say."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from pikvpress import models
from pikvpress.calibration.collect import RATIOS, Record, collect, described, look, save
from pikvpress.calibration.distillation import distill, kept_by, real_divergence
from pikvpress.calibration.measure import divergence
from pikvpress.calibration.objectives import OBJECTIVES
from pikvpress.calibration.situations import Situation
from pikvpress.calibration.training import (
    EQUAL,
    KEEP_SHARES,
    Budgets,
    TailMean,
    blend_by_costs,
    error_curves,
    expert_costs,
    kept_keys,
    predicted,
    selection_cost,
    train,
)
from pikvpress.experts import make_experts
from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routers.feature_names import feature_names
from tests.conftest import make_tiny

NAMES = ["keydiff", "knorm", "streaming_llm", "probe_attention"]


@pytest.fixture(scope="module")
def model():
    return make_tiny("llama", seed=5)


@pytest.fixture(scope="module")
def experts():
    return make_experts(NAMES, None)


@pytest.fixture(scope="module")
def situations():
    generator = torch.Generator().manual_seed(2)

    def made():
        ids = torch.randint(1, 500, (130,), generator=generator).tolist()
        return Situation("facts", tuple(ids[:110]), (tuple(ids[110:120]), tuple(ids[120:])))

    return [made() for _ in range(4)]


@pytest.fixture(scope="module")
def records(tmp_path_factory, model, experts, situations):
    folder = tmp_path_factory.mktemp("records")
    scaling = [layer.scaling for layer in models.attention_layers(model)]
    for number, situation in enumerate(situations):
        save(folder / f"{number}", collect(model, situation, number), **described(situation.kind, scaling, 1.0))
        save(folder / f"{number}-seen", look(model, situation, experts))
    return [Record(folder / f"{number}", folder / f"{number}-seen") for number in range(len(situations))]


def quiet(message):
    pass


def make_router(name="pikv", **settings):
    settings = {"top_k": 4} | settings
    return ROUTERS[name]([1.0] * 4, feature_names(NAMES), 2, 2, RouterSettings(**settings))


@pytest.fixture(scope="module")
def budgets(records):
    return Budgets(error_curves(make_router(), records, 2, quiet))


def test_fitting_starts_from_the_experts_that_cost_least(records):
    costs = expert_costs(records, 2, 2, quiet)
    expected = torch.empty(len(RATIOS), 2, 2, len(NAMES))
    for ratio in range(len(RATIOS)):
        for index in range(2):
            layer, counts = records[0].layer(index), EQUAL.counts(ratio, 110, index, 2)
            for expert in range(len(NAMES)):
                kept = kept_keys(layer.ranks[ratio, :, expert], counts)
                expected[ratio, index, :, expert] = selection_cost(layer.reading, kept)
    expected = (expected / expected.mean(dim=(1, 2, 3), keepdim=True)).mean(dim=0)
    torch.testing.assert_close(expert_costs(records[:1], 2, 2, quiet), expected)
    logits = blend_by_costs(torch.tensor([[1.0, 2.0, 4.0]]))
    torch.testing.assert_close(logits.exp(), torch.tensor([[1.0, 1 / 4, 1 / 16]]))
    assert (blend_by_costs(costs).argmax(dim=-1) == costs.argmin(dim=-1)).all()


def test_error_curves_fall_to_nothing_where_everything_is_kept(budgets):
    assert budgets.curves.shape == (len(RATIOS), 2, 2, len(KEEP_SHARES))
    assert budgets.curves[..., 0].abs().max() < 1e-6
    assert (budgets.curves[..., -1] > budgets.curves[..., 1]).all()


@pytest.mark.parametrize("name", ROUTERS)
def test_every_router_is_fitted(name, records, budgets):
    router = make_router(name)
    before = predicted(router, records, EQUAL)
    train(router, list(router.parameters()), records, EQUAL, epochs=15, seed=0, progress=quiet)
    assert predicted(router, records, EQUAL).sum() < before.sum()
    assert not router.training


def test_fitting_serves_the_budgets_that_it_is_told(records, budgets):
    router = make_router()
    before = predicted(router, records, budgets)
    train(router, [router.static], records, budgets, epochs=15, seed=0, progress=quiet)
    assert predicted(router, records, budgets).sum() < before.sum()


def test_the_selection_costs_what_is_measured(records):
    layer = records[0].layer(1)
    blended = layer.ranks[0].mean(dim=1)
    counts = torch.tensor([30, 12])
    hard = selection_cost(layer.reading, kept_keys(blended, counts))
    order = blended.argsort(dim=-1, descending=True, stable=True)
    costs = divergence(layer.reading, order, [12, 30])
    torch.testing.assert_close(hard, torch.stack([costs[0, 1], costs[1, 0]]))


def test_the_strongest_rows_carry_most_of_the_cost(records):
    reading, few = records[0].layer(0).reading, records[0].layer(0, 20).reading
    assert few.attention.shape[1] == 20 < reading.attention.shape[1]
    kept = kept_keys(torch.rand(2, 110, generator=torch.Generator().manual_seed(0)), torch.tensor([40, 40]))
    share = selection_cost(few, kept).sum() / selection_cost(reading, kept).sum()
    assert 0.5 < share <= 1 + 1e-5
    assert torch.equal(records[0].layer(0, 1000).reading.attention, reading.attention)


def test_selections_pass_gradients_to_keys_near_the_threshold():
    blended = torch.linspace(0, 1, 101).repeat(2, 1).requires_grad_()
    kept = kept_keys(blended, torch.tensor([50, 0]))
    assert kept.detach().sum(dim=-1).tolist() == pytest.approx([50, 0], abs=1e-4)
    kept.sum().backward()
    assert blended.grad[0, 51] > 100 * blended.grad[0, 0] > 0


@pytest.fixture(scope="module")
def examples(records, situations):
    return [(record, situation.futures) for record, situation in zip(records, situations, strict=True)]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_end_to_end_stage_moves_the_router_and_nothing_else(objective, model, examples, budgets):
    router = make_router()
    before = {name: value.clone() for name, value in router.state_dict().items()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    scales = torch.ones(len(RATIOS))
    distill(model, router, [router.static], examples[:2], budgets, OBJECTIVES[objective], scales, 1, 0, quiet)
    assert not torch.equal(router.static, before["static"]) and router.static.isfinite().all()
    assert torch.equal(router.evidence, before["evidence"])
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in models.attention_layers(model))


def test_the_end_to_end_stage_brings_predictions_closer(model, examples, budgets):
    router = make_router()
    before = real_divergence(model, router, examples, budgets, quiet)
    distill(model, router, [router.static], examples, budgets, OBJECTIVES["kl"], before, 30, 0, quiet)
    after = real_divergence(model, router, examples, budgets, quiet)
    assert (after / before).mean() < 1


def test_students_keep_what_budgets_say(model, records, situations, budgets):
    context = records[0].context(model.device, model.dtype)
    full = DynamicCache()
    with torch.no_grad():
        model(torch.tensor([situations[0].context]), past_key_values=full)
    for layer, theirs in zip(context.cache.layers, full.layers, strict=True):
        torch.testing.assert_close(layer.keys, theirs.keys, atol=1e-2, rtol=1e-2)
    router = make_router()
    for used in (EQUAL, budgets):
        kept = kept_by(router, context, 1, used)
        for layer in range(2):
            counts = used.counts(1, 110, layer, 2)
            assert torch.equal(kept[layer].detach().round().sum(dim=-1).long(), counts)
            assert used is not EQUAL or counts.tolist() == [27, 27]


def test_the_mean_is_over_the_last_third_of_the_steps():
    parameter = torch.nn.Parameter(torch.zeros(1))
    mean = TailMean([parameter], 6)
    for step in range(6):
        parameter.data.fill_(step)
        mean.add()
    mean.take()
    assert parameter.item() == 4.5
