"""Queries from futures, which are stored for refitting values."""

from __future__ import annotations

from dataclasses import replace

import torch

from pikvpress import models
from pikvpress.calibration.data.situations import Situation
from pikvpress.calibration.fit.queries import choose_queries
from pikvpress.calibration.measure.collect import collect
from pikvpress.calibration.measure.record import Record, described, save
from tests.calibration.tiny import RECIPE
from tests.conftest import make_tiny

CONTEXT, FUTURE = 40, 12


def record_of(model, path):
    ids = torch.randint(1, 500, (CONTEXT + FUTURE,), generator=torch.Generator().manual_seed(1)).tolist()
    situation = Situation("facts", tuple(ids[:CONTEXT]), (tuple(ids[CONTEXT:]),))
    scaling = [layer.scaling for layer in models.attention_layers(model)]
    save(path, collect(model, situation, 2, 0), **described("facts", scaling, 1.0))
    return Record(path), ids


def projected(model, ids):
    """Return the queries before rotation of every layer, as the model projects them when it reads all tokens."""
    found = []

    def keep(module, args, kwargs, output):
        found.append(models.queries_before_rotation(module, kwargs["hidden_states"])[0])

    hooks = [layer.register_forward_hook(keep, with_kwargs=True) for layer in models.attention_layers(model)]
    with torch.no_grad(), models.hooked(hooks):
        model(input_ids=torch.tensor([ids]))
    return found


def test_they_are_queries_of_the_future_before_rotation(tmp_path, llama):
    record, ids = record_of(llama, tmp_path / "one")
    found = choose_queries(llama, [record], replace(RECIPE, bank=5))
    assert found.shape == (2, 4, 5, 16) and found.dtype == torch.float16
    for chosen, every in zip(found.float(), projected(llama, ids), strict=True):
        for head in range(4):
            distances = torch.cdist(chosen[head], every[head, CONTEXT:])
            assert distances.min(dim=1).values.max() < 0.01 * every.norm(dim=-1).mean()
            assert len(set(distances.argmin(dim=1).tolist())) == 5  # no query twice
    assert torch.equal(found, choose_queries(llama, [record], replace(RECIPE, bank=5)))
    assert not torch.equal(found, choose_queries(llama, [record], replace(RECIPE, bank=5, seed=9)))


def test_there_are_no_more_than_futures_have_tokens_and_none_in_sliding_layers(tmp_path):
    model = make_tiny("gemma3")
    found = choose_queries(model, [record_of(model, tmp_path / "one")[0]], replace(RECIPE, bank=100))
    assert found.shape[2] == FUTURE
    slides = [models.is_sliding(layer) for layer in models.attention_layers(model)]
    assert [not layer.any() for layer in found] == slides and any(slides) and not all(slides)
