"""Features of keys and values, and their products with weights."""

from __future__ import annotations

import pytest
import torch

from pikvpress import models
from pikvpress import saliency_features as module
from pikvpress.saliency_features import (
    hidden_features,
    hidden_scores,
    num_features,
    positions_of,
    saliency_features,
    saliency_scores,
)
from tests.conftest import make_tiny
from tests.helpers import prefill

TOKENS = 90


@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen3", "qwen3_moe"])
def test_features_see_keys_as_they_were_before_rotation(architecture, ids):
    model = make_tiny(architecture)
    states = []
    attention = models.attention_layers(model)[1]
    handle = attention.register_forward_hook(
        lambda layer, args, kwargs, output: states.append(kwargs["hidden_states"]), with_kwargs=True
    )
    cache = prefill(model, ids[:, :TOKENS])
    handle.remove()
    keys, values = cache.layers[1].keys, cache.layers[1].values
    with models.rotary_at_hand(model), torch.no_grad():
        found = saliency_features(keys, values, *positions_of(attention, keys, {}))
        before = models.keys_before_rotation(attention, states[0])
    size = keys.shape[3]
    assert found.shape == (1, 2, TOKENS, num_features(size)) and found.dtype == torch.float32
    lengths = [states.norm(dim=-1) for states in (before, values)]
    for part, states, length in zip(found.split(size, dim=-1), (before, values), lengths, strict=False):
        torch.testing.assert_close(part, states / length.mean(dim=2)[..., None, None], atol=1e-4, rtol=1e-3)
    rest = found[..., 2 * size :]
    torch.testing.assert_close(rest[..., 0].exp(), lengths[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(rest[..., 1].exp(), lengths[1], atol=1e-4, rtol=1e-3)
    place = torch.arange(TOKENS)
    for column, expected in zip(
        rest[0, 0, :, 2:].T,
        (place / TOKENS, (1 - place / TOKENS).log(), ((place + 1) / TOKENS).log(), (place < 4).float()),
        strict=True,
    ):
        torch.testing.assert_close(column, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rotary", [16, 8])
@pytest.mark.parametrize("block", [17, 100])
def test_scores_are_the_features_times_the_weights(rotary, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    generator = torch.Generator().manual_seed(1)
    keys, values = (torch.randn(2, 3, 50, 16, generator=generator) for _ in range(2))
    angles = torch.rand(1, 50, rotary // 2, generator=generator).repeat(1, 1, 2)
    turn, weights = (angles.cos(), angles.sin()), torch.randn(3, num_features(16), generator=generator)
    expected = (saliency_features(keys, values, *turn) @ weights.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(saliency_scores(keys, values, *turn, weights), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("block", [17, 100])
def test_hidden_states_are_divided_by_their_root_mean_square(block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    generator = torch.Generator().manual_seed(1)
    hidden, weights = torch.randn(2, 50, 24, generator=generator), torch.randn(3, 24, generator=generator)
    features = hidden_features(hidden)
    torch.testing.assert_close(features, hidden / hidden.square().mean(dim=-1, keepdim=True).sqrt())
    expected = torch.einsum("btd,hd->bht", features, weights)
    torch.testing.assert_close(hidden_scores(hidden, weights), expected, atol=1e-5, rtol=1e-5)
    assert hidden_scores(hidden.bfloat16(), weights).dtype == torch.float32
