"""Saliency keeps what a dense implementation of its definition keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pikvpress import PiKVCache, models
from pikvpress.gates import save_gates
from pikvpress.gates.file import file_name
from pikvpress.saliency_features import num_features
from pikvpress.schedulers import SaliencyScheduler
from tests.conftest import make_tiny
from tests.helpers import uneven_gates
from tests.schedulers import streams
from tests.schedulers.dense import HEADS, PAGE, SIZE, best
from tests.schedulers.streams import compare

SEEDS = [range(first, first + 10) for first in range(0, 50, 10)]


class Salient:
    """The rule, from keys before rotation and values as a stream yields them."""

    def __init__(self, seed, weights, shares=(1.0, 1.0)):
        parts = list(streams.stream(seed))
        self.keys, self.values = (torch.cat([part[side] for part in parts], dim=2) for side in (1, 2))
        self.weights, self.shares = weights.double()[0], shares
        self.measured, self.scores = 0, {}

    def __call__(self, state, candidates, quota, row):
        self._measure(state)
        return [
            best(entries, int(quota * self.shares[head]), lambda entry, head=head: self._score(state, row, head, entry))
            for head, entries in enumerate(candidates)
        ]

    def _measure(self, state):
        """Score what has left the window, by the mean norms of all that has left."""
        left = (state.length - streams.WINDOW) // PAGE * PAGE
        norms = [states[:, :, :left].norm(dim=-1) for states in (self.keys, self.values)]
        for place in range(self.measured, left):
            of_key, of_value = self.weights[:, :SIZE], self.weights[:, SIZE : 2 * SIZE]
            score = (self.keys[:, :, place] * of_key).sum(-1) / norms[0].mean(dim=-1)
            score = score + (self.values[:, :, place] * of_value).sum(-1) / norms[1].mean(dim=-1)
            for side, norm in enumerate(norms):
                score = score + self.weights[:, 2 * SIZE + side] * norm[..., place].log()
            self.scores[place] = score
        self.measured = max(self.measured, left)

    def _score(self, state, row, head, entry):
        place, count = torch.tensor(float(entry.position)), state.length
        features = [place / count, ((count - place) / count).log(), ((place + 1) / count).log(), (place < 4).float()]
        return (
            self.scores[entry.position][row, head].item()
            + (torch.stack(features) @ self.weights[head, -4:].float()).item()
        )


def weights(seed):
    return torch.randn(1, HEADS, 2 * SIZE + 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_it_keeps_what_the_dense_rule_keeps(seeds):
    for seed in seeds:
        of_seed, shares = weights(seed), (1.0, 1.0) if seed % 2 else (0.5, 1.5)
        scheduler = SaliencyScheduler(weights=of_seed, shares=torch.tensor([shares]))
        compare(seed, scheduler, Salient(seed, of_seed, shares), quota=64 + seed)


def test_append_only_decisions_are_final():
    scheduler = SaliencyScheduler(weights=weights(0), shares=torch.tensor([[0.8, 1.2]]), append_only=True)
    cache, module = PiKVCache(window=streams.WINDOW, scheduler=scheduler, ratio=0.5), streams.Attention()
    stored: list[set] = [set()] * HEADS
    for query, keys, values in streams.stream(4):
        left = cache.layers[0].entries.compressed.context_length if cache.layers else 0
        streams.read(cache, module, query, keys, values)
        held = [set(part) for part in streams.held(cache, 0)]
        assert all(before <= after for before, after in zip(stored, held, strict=True))
        first = cache.layers[0].entries.compressed.context_length
        stored = [{position for position in part if position < first} for part in held]
        assert left == 0 or all(stored)
    assert sum(cache.history.dropped().values()) > 0
    with pytest.raises(ValueError, match="'saliency' does not keep max_tokens: give it ratio= instead"):
        PiKVCache(scheduler=scheduler, max_tokens=1000)


def test_it_takes_weights_and_curves_from_gates(llama, tmp_path, monkeypatch):
    module = models.attention_layers(llama)[0]
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"no gates for this model with its weights: .*, or choose a scheduler .* 'h2o'"
    ):
        SaliencyScheduler().for_model(module)
    gates = replace(uneven_gates(llama), saliency=torch.randn(2, 2, num_features(16)))
    save_gates(tmp_path / file_name(models.fingerprint(module)), gates)
    found = SaliencyScheduler().for_model(module)
    assert torch.equal(found.weights, gates.saliency)
    quotas = [found.quotas(layer, 2, 1000, 250) for layer in (0, 1)]
    assert sum(map(sum, quotas)) == 4 * 250 and all(first > second for first, second in quotas)
    assert found.quotas(0, 2, 200, 250) == [250, 250]  # everything fits
    given = SaliencyScheduler(shares=torch.tensor([[1.0, 1.0], [0.5, 1.5]])).for_model(module)
    assert given.quotas(1, 2, 1000, 250) == [125, 375]
    with pytest.raises(ValueError, match=r"weights has shape \(1, 2, 22\), but this model needs \(2, 2, 38\)"):
        SaliencyScheduler(weights=weights(0)).for_model(module)


@pytest.mark.parametrize("name", ["smollm3", "glm4"])
def test_models_whose_caches_do_not_know_how_keys_are_rotated_are_refused(name):
    module = models.attention_layers(make_tiny(name))[0]
    with pytest.raises(ValueError, match="rotates them in another way: choose a scheduler such as 'h2o'"):
        SaliencyScheduler().for_model(module)


def test_a_page_counts_by_its_mean_loss_so_that_sinks_save_theirs():
    scores = torch.full((1, 1, 2, PAGE), -3.0)
    scores[0, 0, 0, :4], scores[0, 0, 1] = 8.0, -1.0
    exist = torch.ones(1, 1, 2, PAGE, dtype=torch.bool)
    exist[..., 1, 10:] = False
    found = SaliencyScheduler().page_score(scores.masked_fill(~exist, -torch.inf), exist)
    torch.testing.assert_close(
        found, torch.stack([scores[0, 0, 0].exp().mean().log(), torch.tensor(-1.0)]).view(1, 1, 2)
    )
    assert found[0, 0, 0] > found[0, 0, 1] and scores[0, 0, 0].mean() < -1
