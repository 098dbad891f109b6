"""Fitting the saliency expert: its targets, and that a fit recovers a known relation."""

from __future__ import annotations

import pytest
import torch

from pikvpress import models
from pikvpress.calibration.fit.saliency import fit_saliency
from pikvpress.calibration.measure.cost import divergence
from pikvpress.experts.saliency import SaliencyScorer, num_features
from tests.calibration.tiny import RECIPE, make_situations, measured


@pytest.fixture(scope="module")
def records(tmp_path_factory, model):
    return measured(model, make_situations(6, 110, 20, 20), tmp_path_factory.mktemp("records"))


def test_fitting_tells_keys_apart_on_contexts_that_it_has_not_seen(model, records):
    told = []
    weights, figures = fit_saliency(model, records[:4], records[4:], RECIPE, told.append)
    assert weights.shape == (2, 2, num_features(16)) and weights.dtype == torch.float32
    found = figures["predicted_divergence"]
    assert set(found) == {"regressed", "descended"} and figures["kept"] in found
    assert len(told) == 4 * (2 + RECIPE.epochs_of_saliency) + 2 * 2
    at_random = torch.zeros(len(RECIPE.ratios))
    for record in records[4:]:
        for index in record.layers:
            layer = record.layer(index)
            order = torch.rand(2, 110, generator=torch.Generator().manual_seed(index)).argsort(dim=-1)
            at_random += divergence(layer.reading, order, [13, 27, 55]).sum(dim=0).flip(0) / 2
    assert (torch.tensor(found[figures["kept"]]) < at_random).all()
    assert not any(hasattr(layer, "rotary_emb") for layer in models.attention_layers(model))


def test_the_press_scores_as_was_fitted(model, records):
    weights, figures = fit_saliency(model, records[:4], records[4:], RECIPE, lambda step: None)
    press, total = SaliencyScorer(0.5, weights), torch.zeros(len(RECIPE.ratios))
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
    first, second = (fit_saliency(model, records[:3], records[4:5], RECIPE, lambda step: None)[0] for _ in range(2))
    assert torch.equal(first, second)
