"""The saliency expert's fit: what it is fitted to, and that fitting finds what is there."""

from __future__ import annotations

import pytest
import torch

from pikvpress import models
from pikvpress.calibration.collect import RATIOS, Record, collect, described, save
from pikvpress.calibration.measure import Reading, divergence
from pikvpress.calibration.saliency import EPOCHS, fit_saliency, saliency
from pikvpress.calibration.situations import Situation
from pikvpress.experts.saliency import SaliencyScorer, num_features
from tests.conftest import make_tiny

KEYS, ROWS, SIZE = 40, 6, 8


@pytest.fixture
def reading():
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(shape, generator=generator)

    attention = (3 * drawn(2, ROWS, KEYS)).softmax(dim=-1) * 0.9
    values, other = drawn(2, KEYS, SIZE), 0.1 * drawn(2, ROWS, SIZE)
    return Reading(attention, values, 1 - attention.sum(-1), other, other + attention @ values, drawn(3, 2, ROWS, SIZE))


def test_saliency_is_what_removing_one_key_costs(reading):
    found = saliency(reading)
    for key in (0, 7, KEYS - 1):
        others = torch.tensor([index for index in range(KEYS) if index != key]).expand(2, -1)
        torch.testing.assert_close(found[:, key], divergence(reading, others, [KEYS - 1])[:, 0], rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="module")
def model():
    return make_tiny("llama", seed=5)


@pytest.fixture(scope="module")
def records(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("records")
    scaling = [layer.scaling for layer in models.attention_layers(model)]
    generator = torch.Generator().manual_seed(2)
    paths = []
    for number in range(6):
        ids = torch.randint(1, 500, (150,), generator=generator).tolist()
        situation = Situation("facts", tuple(ids[:110]), (tuple(ids[110:130]), tuple(ids[130:])))
        paths.append(folder / f"{number}")
        save(paths[-1], collect(model, situation, number), **described("facts", scaling, 1.0))
    return [Record(path) for path in paths]


def test_fitting_tells_keys_apart_on_contexts_that_it_has_not_seen(model, records):
    told = []
    weights, figures = fit_saliency(model, records[:4], records[4:], 0, told.append)
    assert weights.shape == (2, 2, num_features(16)) and weights.dtype == torch.float32
    found = figures["predicted_divergence"]
    assert set(found) == {"regressed", "descended"} and figures["kept"] in found
    assert len(told) == 4 * (2 + EPOCHS) + 2 * 2
    at_random = torch.zeros(len(RATIOS))
    for record in records[4:]:
        for index in record.layers:
            layer = record.layer(index)
            order = torch.rand(2, 110, generator=torch.Generator().manual_seed(index)).argsort(dim=-1)
            at_random += divergence(layer.reading, order, [13, 27, 55]).sum(dim=0).flip(0) / 2
    assert (torch.tensor(found[figures["kept"]]) < at_random).all()
    assert not any(hasattr(layer, "rotary_emb") for layer in models.attention_layers(model))


def test_the_press_scores_as_was_fitted(model, records):
    weights, figures = fit_saliency(model, records[:4], records[4:], 0, lambda step: None)
    press, total = SaliencyScorer(0.5, weights), torch.zeros(len(RATIOS))
    with models.rotary_at_hand(model):
        for record in records[4:]:
            cache = record.context(model.device, model.dtype).cache
            for index, attention in enumerate(models.attention_layers(model)):
                layer = cache.layers[index]
                scores = press.score(attention, None, layer.keys, layer.values, None, {})[0]
                order = scores.argsort(dim=-1, descending=True)
                total += divergence(record.layer(index).reading, order, [13, 27, 55]).sum(dim=0).flip(0) / 2
    torch.testing.assert_close(
        total, torch.tensor(figures["predicted_divergence"][figures["kept"]]), rtol=1e-3, atol=1e-6
    )


def test_the_same_seed_fits_the_same_weights(model, records):
    first, second = (fit_saliency(model, records[:3], records[4:5], 1, lambda step: None)[0] for _ in range(2))
    assert torch.equal(first, second)
