"""Oracles bound what routers can gain: they must beat every expert on the text that they are given."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evaluation.answering import log_probabilities
from evaluation.compressors import PrefilledContext
from evaluation.oracle import OraclePress, foresee
from evaluation.presses import parse_press
from pikvpress import models
from pikvpress.experts import available_experts
from pikvpress.saliency_features import num_features

EXPERTS = ("keydiff", "knorm", "probe_attention", "lagkv")


@pytest.fixture(scope="module")
def case(tiny):
    ids = torch.randint(100, 40000, (330,), generator=torch.Generator().manual_seed(4)).tolist()
    return ids[:300], ids[300:]


def divergence(model, contexts, future):
    full, *others = log_probabilities(model, contexts, future)
    return [(full.exp() * (full - other)).sum(dim=-1).mean().item() for other in others]


def test_oracles_come_closer_than_any_expert(tiny, case):
    context, future = case
    shared = PrefilledContext(tiny, context)
    alone = [shared.compress(parse_press(name).make(0.75)) for name in EXPERTS]
    seen = foresee(tiny, context, future, EXPERTS, [0.5, 0.75], 0)
    oracles = [OraclePress(most, EXPERTS, 0.75).compress_knowing(seen) for most in (1, 3)]
    *singles, choice, blend = divergence(tiny, [shared.compress(None), *alone, *oracles], future)
    assert choice <= min(singles) and blend <= min(singles)  # one of them may be the best in every head
    assert min(choice, blend) < 0.1 * sum(singles) / len(singles)
    assert [context.lengths for context in oracles] == [(75, 75)] * 2
    assert not any(layer.self_attn._forward_hooks for layer in tiny.model.layers)


@pytest.mark.parametrize("fitted", [True, False])
def test_oracles_know_every_expert(tiny, case, fitted, monkeypatch):
    context, future = case
    layers = models.attention_layers(tiny)
    shape = len(layers), models.num_key_value_heads(layers[0]), num_features(layers[0].head_dim)
    weights = torch.zeros(shape) if fitted else None
    monkeypatch.setattr(
        "evaluation.oracle.find_gates", lambda model: SimpleNamespace(saliency=weights, saliency_hidden=None)
    )
    monkeypatch.setattr(
        "pikvpress.gates.find_gates", lambda model: SimpleNamespace(saliency=weights, saliency_hidden=None)
    )
    seen = foresee(tiny, context, future, None, [0.5], 0)
    assert len(seen.found[0][0].ranked[0, 0]) == len(available_experts()) + fitted
