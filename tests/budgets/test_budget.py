"""Every registered budget keeps the number it promises, and declares what it needs."""

from __future__ import annotations

import pickle

import pytest
import torch

from pikvpress.budgets import BYTE_BUDGETS, TOKEN_BUDGETS, Budget, ModelShape
from pikvpress.budgets.budget import CONTEXTS, KeptByContext
from tests.budgets.test_decision import scored
from tests.conftest import make_tiny
from tests.helpers import uneven_gates

SHAPE = ModelShape(2, 2, 16, torch.float32, (0, 1))
KINDS = {f"tokens {name}": kind for name, kind in TOKEN_BUDGETS.items()} | {
    f"bytes {name}": kind for name, kind in BYTE_BUDGETS.items()
}


@pytest.fixture(scope="module")
def gates():
    return uneven_gates(make_tiny())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_layer_is_decided_on_once_with_its_own_entries(gates, kind):
    layers = [scored(index, 40) for index in (0, 1)]
    budget = kind(gates, SHAPE)
    first, last = budget.decide(layers[0], 0.5), budget.decide(layers[1], 0.5)
    assert [decision.layer for decision in (*first, *last)] == layers
    assert bool(first) is not kind.waits
    for decision in (*first, *last):
        counts = decision.head_tokens()
        assert all(1 <= count <= 40 for count in counts)
        assert kind.leaves_rows == (not decision.is_ragged)
    if kind.leaves_rows:
        lengths = {count for decision in (*first, *last) for count in decision.head_tokens()}
        assert kind.uneven_layers == (len(lengths) > 1)
    else:
        assert not kind.uneven_layers  # removed entries are masked, or the cache can hold heads of any length
    if kind in TOKEN_BUDGETS.values():
        assert sum(sum(decision.head_tokens()) for decision in (*first, *last)) == 2 * 2 * 20
        assert budget.share_removed(0.5, 40) == 0.5


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_forward_that_did_not_end_leaves_nothing(gates, kind):
    budget, fresh = kind(gates, SHAPE), kind(gates, SHAPE)
    budget.decide(scored(0, 30), 0.5)
    layers = [scored(index, 40) for index in (0, 1)]
    again = [decision for layer in layers for decision in budget.decide(layer, 0.5)]
    alone = [decision for layer in layers for decision in fresh.decide(layer, 0.5)]
    assert [one.layer for one in again] == [one.layer for one in alone] == layers
    for one, other in zip(again, alone, strict=True):
        assert one.kept == other.kept if isinstance(one.kept, int) else torch.equal(one.kept, other.kept)


def test_bytes_say_how_many_tokens_they_leave_no_room_for(gates):
    for kind in BYTE_BUDGETS.values():
        assert kind(gates, SHAPE).share_removed(0.0, 40) == 0
        assert 0 < kind(gates, SHAPE).share_removed(0.95, 400) < 1


def test_fitted_budgets_fit_gates_with_curves(gates):
    from dataclasses import replace

    bare = replace(gates, curves=None, codec_curves=None)
    for kinds in (TOKEN_BUDGETS, BYTE_BUDGETS):
        assert kinds["fitted"].fits(gates) and not kinds["fitted"].fits(bare) and not kinds["fitted"].fits(None)
        assert kinds["equal"].fits(None)


def test_a_budget_of_ones_own_must_decide():
    with pytest.raises(NotImplementedError):
        Budget().decide(scored(), 0.5)


def test_unknown_budgets_are_named_with_those_that_are_known():
    with pytest.raises(ValueError, match="unknown budgets 'piramid': did you mean pyramid"):
        TOKEN_BUDGETS["piramid"]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_budget_that_has_decided_can_be_pickled(gates, kind):
    budget = kind(gates, SHAPE)
    expected = budget.decide(scored(0, 40), 0.5)
    found = pickle.loads(pickle.dumps(budget)).decide(scored(0, 40), 0.5)
    assert [one.head_tokens() for one in found] == [one.head_tokens() for one in expected]


def test_what_depends_on_the_length_is_computed_once_for_the_latest_contexts():
    computed = []
    kept = KeptByContext(lambda ratio, num_keys: computed.append(num_keys) or num_keys)
    for num_keys in [*range(CONTEXTS), 0, *range(CONTEXTS, CONTEXTS + 3), 0, 5]:
        assert kept(0.5, num_keys) == num_keys
    assert computed == [*range(CONTEXTS + 3), 0]  # the first ones made room for later ones
