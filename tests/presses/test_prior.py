"""The prior needs no calibration; on no architecture may it be worse than equal weights."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from pikvpress import DEFAULT_EXPERTS, MoERouterPress, models
from pikvpress.gates import Gates, save_gates
from pikvpress.routers.feature_names import feature_names
from tests.conftest import CONFIGS, make_tiny

CONTEXT, AHEAD, SEEDS = 400, 40, 6


@torch.no_grad()
def divergence(model, ids, press):
    """Return the KL divergence of the predictions after a context, in nats per token."""
    position = torch.arange(CONTEXT, CONTEXT + AHEAD)[None]
    predicted = []
    for used in (None, press):
        cache = DynamicCache()
        if used is None:
            model.model(input_ids=ids[:, :CONTEXT], past_key_values=cache)
        else:
            with used(model):
                model.model(input_ids=ids[:, :CONTEXT], past_key_values=cache)
        for i in range(AHEAD):
            step = ids[:, CONTEXT + i : CONTEXT + i + 1]
            out = model(input_ids=step, past_key_values=cache, position_ids=position[:, i : i + 1]).logits[0]
            predicted.append(out.log_softmax(dim=-1))
    full, cut = torch.cat(predicted[:AHEAD]), torch.cat(predicted[AHEAD:])
    return float((full.exp() * (full - cut)).sum(dim=-1).mean())


def uniform(model, path):
    first = models.attention_layers(model)[0]
    layers, heads = len(models.attention_layers(model)), models.num_key_value_heads(first)
    count, features = len(DEFAULT_EXPERTS), len(feature_names(DEFAULT_EXPERTS))
    zeros = {"static": torch.zeros(layers, heads, count), "evidence": torch.zeros(features, count)}
    save_gates(path, Gates(models.fingerprint(first), list(DEFAULT_EXPERTS), {"static": zeros}))
    return path


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_prior_is_no_worse_than_uniform_weights(architecture, tmp_path):
    prior = alike = 0.0
    for seed in range(SEEDS):
        model = make_tiny(architecture, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(1, 511, (1, CONTEXT + AHEAD), generator=generator)
        press = MoERouterPress(0.75, router_type="static", gates=uniform(model, tmp_path / f"{seed}.safetensors"))
        prior += divergence(model, ids, MoERouterPress(0.75, gates=None))
        alike += divergence(model, ids, press)
    assert prior <= alike
