"""Fitting the saliency expert: its targets, and that a fit recovers a known relation."""

from __future__ import annotations

from operator import truediv

import pytest
import torch

from pikvpress import models
from pikvpress.calibration.fit import saliency as module
from pikvpress.calibration.fit.saliency import fit_saliency
from pikvpress.calibration.measure.cost import divergence
from pikvpress.experts.saliency import SaliencyScorer
from pikvpress.saliency_features import num_features
from tests.calibration.tiny import RECIPE, make_situations, measured

COUNTS = [3, 6, 13, 27, 55, 82]  # of 110 keys, at the ratios from the highest


@pytest.fixture(scope="module")
def records(tmp_path_factory, model):
    return measured(model, make_situations(6, 110, 20, 20), tmp_path_factory.mktemp("records"))


def test_fitting_tells_keys_apart_on_contexts_that_it_has_not_seen(model, records):
    told = []
    fitted, figures = fit_saliency(model, records[:4], records[4:], RECIPE, told.append)
    assert fitted.weights.shape == (2, 2, num_features(16)) and fitted.weights.dtype == torch.float32
    found = figures["predicted_divergence"]
    assert list(found) == ["entries", "hidden states", "entries, descended", "hidden states, descended"]
    *_, best = figures["kept"]
    assert found[best] == min(found.values(), key=lambda row: sum(map(truediv, row, found["entries"])))
    assert (fitted.hidden_weights is None) == best.startswith("entries")
    assert len(told) == 4 * (1 + RECIPE.epochs_of_saliency) + 4 + 2
    at_random = torch.zeros(len(RECIPE.saliency_ratios))
    for record in records[4:]:
        for index in record.layers:
            layer = record.layer(index)
            order = torch.rand(2, 110, generator=torch.Generator().manual_seed(index)).argsort(dim=-1)
            at_random += divergence(layer.reading, order, COUNTS).sum(dim=0).flip(0) / 2
    for name in figures["kept"]:  # few of so few keys can be right at random
        assert (torch.tensor(found[name]) < at_random)[:3].all()
    assert not any(hasattr(layer, "rotary_emb") for layer in models.attention_layers(model))


def test_the_press_scores_as_was_fitted(model, records):
    fitted, figures = fit_saliency(model, records[:4], records[:4], RECIPE, lambda step: None)
    entries, best = figures["kept"]
    assert best.startswith("hidden states")  # on what it was fitted to, more features do better
    press = SaliencyScorer(0.5, fitted.weights, fitted.hidden_weights)
    total = {entries: torch.zeros(len(COUNTS)), best: torch.zeros(len(COUNTS))}
    with models.rotary_at_hand(model):
        for record in records[:4]:
            cache = record.context(model.device, model.dtype).cache
            for index, attention in enumerate(models.attention_layers(model)):
                layer = cache.layers[index]
                for name, hidden in [(entries, None), (best, record.hidden(index).unsqueeze(0))]:
                    scores = press.score(attention, hidden, layer.keys, layer.values, None, {})[0]
                    order = scores.argsort(dim=-1, descending=True)
                    costs = divergence(record.layer(index).reading, order, COUNTS)
                    total[name] += costs.sum(dim=0).flip(0) / 4
    for name, found in total.items():
        torch.testing.assert_close(found, torch.tensor(figures["predicted_divergence"][name]), rtol=2e-3, atol=1e-6)


def test_hidden_states_are_left_out_where_they_do_not_help(model, records, monkeypatch):
    monkeypatch.setattr(module, "hidden_features", lambda states: torch.randn(states.shape) * 100)
    fitted, figures = fit_saliency(model, records[:4], records[4:], RECIPE, lambda step: None)
    assert len(figures["kept"]) == 1 and fitted.hidden_weights is None


def test_the_same_seed_fits_the_same_weights(model, records):
    first, second = (fit_saliency(model, records[:3], records[:1], RECIPE, lambda step: None)[0] for _ in range(2))
    assert torch.equal(first.weights, second.weights) and torch.equal(first.hidden_weights, second.hidden_weights)
