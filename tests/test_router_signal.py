"""Whether a model's own router helps to choose keys: the features, and a signal that is planted."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch

from benchmarks import router_signal
from benchmarks.router_signal import SETS, Measuring, compared, router_features, table_of
from pikvpress.calibration import Recipe
from pikvpress.moe import ExpertChoice, choices_seen
from tests.calibration.tiny import Tokenizer, make_situations
from tests.conftest import make_tiny

RECIPE = Recipe()
ROUTER, SHUFFLED = SETS.index("entries + router"), SETS.index("entries + shuffled router")


@pytest.fixture(scope="module")
def mixture():
    return make_tiny("mixtral", seed=3)


@pytest.fixture(scope="module")
def situations():
    return make_situations(6, 110, 20, 20)


def test_features_are_entropy_and_chosen_experts():
    logits = torch.tensor([[0.0, 1.0, 2.0], [9.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
    features = router_features(ExpertChoice(logits, 2))
    assert features.shape == (3, 4) and features.dtype == torch.float32
    assert features[:, 1:].sum(dim=1).tolist() == [2, 2, 2] and features[0, 1:].tolist() == [0, 1, 1]
    assert features[:, 0].argsort().tolist() == [1, 0, 2] and abs(float(features[:, 0].mean())) < 1e-6


def test_entropy_of_nearly_equal_probabilities_is_told_apart():
    logits = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    flat = router_features(ExpertChoice(logits * 2.0**-14, 2))[:, 0]
    assert torch.allclose(flat, router_features(ExpertChoice(logits * 2.0**-7, 2))[:, 0], atol=0.05)


def test_a_layer_has_the_features_of_the_router_before_it(mixture, situations):
    choices = {}
    with torch.no_grad(), choices_seen(mixture, choices.__setitem__):
        mixture(torch.tensor([situations[0].context]))
    measuring = Measuring(mixture, RECIPE, 0)
    columns = measuring.columns()
    router = [column for column in columns["entries + router"] if column not in columns["entries"]]
    shuffled = [column for column in columns["entries + shuffled router"] if column not in columns["entries"]]
    with measuring.layers(situations[0], 0) as layers:
        found = {index: features for index, _, features in layers}
    assert found[0].shape == (2, 110, len({column for of_set in columns.values() for column in of_set}))
    assert not found[0][..., router].any()  # no router has run yet
    torch.testing.assert_close(found[1][0][:, router], router_features(choices[0]))
    rows, others = ({tuple(row) for row in found[1][0][:, part].tolist()} for part in (router, shuffled))
    assert rows == others and not torch.equal(found[1][0][:, router], found[1][0][:, shuffled])
    assert not any(module._forward_hooks for module in mixture.modules())


def test_costs_are_measured_for_every_set_and_ratio(mixture, situations):
    told = []
    costs = compared(Measuring(mixture, RECIPE, 0), situations[:4], situations[4:], lambda: told.append(1))
    assert costs.shape == (2, len(SETS), len(RECIPE.saliency_ratios)) and len(told) == 6
    assert (costs > 0).all() and (costs[:, :, -1] > costs[:, :, 0]).all()
    assert not np.array_equal(costs[:, 0], costs[:, ROUTER])
    again = compared(Measuring(mixture, RECIPE, 0), situations[:4], situations[4:], lambda: None)
    assert np.array_equal(costs, again)


def test_a_signal_that_is_there_is_found(mixture, situations, monkeypatch):
    """If the target is one of the router's features, they help and shuffled ones do not."""
    measuring, truth = Measuring(mixture, RECIPE, 0), []
    original, column = measuring._with_features, measuring.columns()["entries + router"][-1]

    def with_features(record, routers, number):
        generator = torch.Generator().manual_seed(number)
        drawn = {index: torch.randn(features.shape, generator=generator) for index, features in routers.items()}
        for index, layer, features in original(record, drawn, number):
            truth.append(features[..., column])
            yield index, layer, features

    monkeypatch.setattr(Measuring, "_with_features", lambda self, *args: with_features(*args))
    monkeypatch.setattr(router_signal, "saliency_target", lambda layer, floor: truth[-1])
    monkeypatch.setattr(
        router_signal, "equal_costs", lambda layer, scores, recipe: (scores - truth[-1]).square().mean().expand(6)
    )
    costs = compared(measuring, situations[:4], situations[4:], lambda: None).mean(axis=(0, 2))
    assert costs[ROUTER] < 0.1 * costs[0] and costs[SHUFFLED] > 0.9 * costs[0]


def test_the_table_has_means_and_paired_intervals():
    costs = np.random.default_rng(0).uniform(1, 5, (12, 1, 2)).repeat(len(SETS), axis=1)
    costs[:, ROUTER] *= 0.9
    console = router_signal.Console(width=180, record=True, file=io.StringIO())
    console.print(table_of(costs, ["a", "b"] * 6, (0.5, 0.75)))
    shown = console.export_text()
    assert f"{costs[:, 0, 0].mean():.4f}" in shown and f"{costs[:, ROUTER, 1].mean():.4f}" in shown
    assert shown.count("(-10.0% to -10.0%)") == 3  # two ratios and their mean: paired, whatever the contexts
    assert "+0.0%" in shown


def test_the_command(mixture, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(router_signal, "load_model", lambda name: (mixture, Tokenizer()))
    router_signal.main(tmp_path, contexts=2, held_out=2, length=256)
    shown = capsys.readouterr().out
    assert all(name in shown for name in SETS) and re.search(r"fitted on 2 contexts of 256 tokens, in \d+ s", shown)


def test_dense_models_are_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(router_signal, "load_model", lambda name: (make_tiny("llama"), Tokenizer()))
    with pytest.raises(router_signal.typer.Exit):
        router_signal.main(tmp_path)
    assert "holds no mixture of experts" in capsys.readouterr().err
    with pytest.raises(router_signal.typer.Exit):
        router_signal.main(tmp_path / "nothing")
    assert "there is no folder" in capsys.readouterr().err
