"""The predicted divergence, compared with the actual change of the model's predictions."""

from __future__ import annotations

import pytest
import torch

from pikvpress.calibration.measure.cost import divergence, removal_costs, selection_cost
from pikvpress.calibration.measure.reading import FutureReading
from pikvpress.calibration.measure.selection import kept_keys
from pikvpress.calibration.measure.student import predict
from pikvpress.calibration.measure.teacher import read_future
from pikvpress.experts import make_experts
from tests.calibration.measure.cases import full_cache, readings
from tests.calibration.measure.conftest import CONTEXT
from tests.calibration.tiny import NAMES, RECIPE, make_situations, measured
from tests.conftest import make_tiny

KEYS, ROWS, SIZE = 40, 6, 8


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    situations, experts = make_situations(1, 110, 10, 10), make_experts(NAMES, None)
    return measured(make_tiny("llama", seed=5), situations, tmp_path_factory.mktemp("records"), experts)[0]


def test_the_divergence_of_small_changes_is_predicted(case):
    """Remove one key of one head and compare with the KL divergence of the model's predictions."""
    model, context, future = case
    model = model.double()
    cache = full_cache(model, context)
    futures = [read_future(model, cache, future, 400, torch.Generator().manual_seed(0))]
    predicted, happened = [], []
    with torch.no_grad():
        (base,) = predict(model, cache, {}, [future])
        for index, reading in enumerate(readings(model, cache, futures)):
            for head in range(2):
                for removed in (5, 40, 80):
                    order = torch.tensor([[i for i in range(CONTEXT) if i != removed]] * 2)
                    predicted.append(divergence(reading, order, [CONTEXT - 1])[head, 0].item())
                    kept = torch.ones(2, CONTEXT, dtype=torch.float64)
                    kept[head, removed] = 0
                    (changed,) = predict(model, cache, {index: kept}, [future])
                    happened.append((base.exp() * (base - changed)).sum().item())
    model.float()
    predicted, happened = torch.tensor(predicted), torch.tensor(happened)
    assert torch.corrcoef(torch.stack([predicted.log(), happened.log()]))[0, 1] > 0.9
    assert (predicted / happened).log().abs().mean() < 0.25


def test_the_selection_costs_what_is_measured(record):
    layer = record.layer(1)
    blended = layer.seen.ranks[0].mean(dim=1)
    counts = torch.tensor([30, 12])
    hard = selection_cost(layer.reading, kept_keys(blended, counts, RECIPE.softness))
    order = blended.argsort(dim=-1, descending=True, stable=True)
    costs = divergence(layer.reading, order, [12, 30])
    torch.testing.assert_close(hard, torch.stack([costs[0, 1], costs[1, 0]]))


@pytest.fixture
def reading():
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(shape, generator=generator)

    attention = (3 * drawn(2, ROWS, KEYS)).softmax(dim=-1) * 0.9
    values, other = drawn(2, KEYS, SIZE), 0.1 * drawn(2, ROWS, SIZE)
    return FutureReading(
        attention, values, 1 - attention.sum(-1), other, other + attention @ values, drawn(3, 2, ROWS, SIZE)
    )


def test_saliency_is_what_removing_one_key_costs(reading):
    found = removal_costs(reading)
    for key in (0, 7, KEYS - 1):
        others = torch.tensor([index for index in range(KEYS) if index != key]).expand(2, -1)
        torch.testing.assert_close(found[:, key], divergence(reading, others, [KEYS - 1])[:, 0], rtol=1e-3, atol=1e-6)
