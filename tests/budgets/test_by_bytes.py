"""Budgets in bytes determine tokens and codecs."""

from __future__ import annotations

import torch

from pikvpress.budgets import ModelShape
from pikvpress.budgets.by_bytes import FittedBytes, UniformBytes
from pikvpress.cache.codecs import CODECS
from pikvpress.cache.storing import kept_bytes
from tests.budgets.test_decision import scored
from tests.conftest import make_tiny
from tests.helpers import uneven_gates

SHAPE = ModelShape(2, 2, 4, torch.float32, (0, 1))


def spent(decisions):
    total = 0
    for decision in decisions:
        for number, (states, is_keys) in enumerate(((decision.layer.keys, True), (decision.layer.values, False))):
            codecs = [CODECS[pair[number]] for pair in decision.codecs]
            total += kept_bytes(states, decision.kept, codecs, is_keys)
    return total


def test_what_is_decided_takes_no_more_than_its_share():
    gates = uneven_gates(make_tiny())
    layers = [scored(index, 400) for index in (0, 1)]
    whole = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    for kind in (UniformBytes, FittedBytes):
        budget = kind(gates, SHAPE)
        found = spent([budget.decide(layer, 0.75)[0] for layer in layers])
        assert 0.2 * whole < found <= 0.25 * whole


def test_fitted_bytes_give_tokens_to_one_head_and_bits_to_the_other():
    decision = FittedBytes(uneven_gates(make_tiny()), SHAPE).decide(scored(0, 400), 0.75)[0]
    bits = [CODECS[key].bits or 32 for key, _ in decision.codecs]
    tokens = decision.head_tokens()
    assert tokens[0] > tokens[1] and bits[0] < bits[1]


def test_nothing_is_removed_at_ratio_0():
    assert UniformBytes(shape=SHAPE).share_removed(0, 100) == 0
    assert UniformBytes(shape=SHAPE).share_removed(0.99, 1000) > 0.5
