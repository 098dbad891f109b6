"""What a budget in bytes buys."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pikvpress.budgets.spending import Heads, spend_fitted, spend_uniform
from tests.conftest import make_tiny
from tests.helpers import PAIRS, uneven_gates

HEADS = Heads(2, 2, 64, 1000, torch.float32)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.8, 0.9, 0.97])
def test_bytes_add_up_and_stay_within_the_budget(ratio):
    budget = (1 - ratio) * HEADS.nbytes * 4
    fitted = spend_fitted(uneven_gates(make_tiny()), HEADS, ratio, (0, 1))
    for spending in (spend_uniform(HEADS, ratio, (0, 1)), fitted):
        sizes = [
            HEADS.size(pair, count)
            for counts, pairs in zip(spending.counts.tolist(), spending.codecs, strict=True)
            for count, pair in zip(counts, pairs, strict=True)
        ]
        assert sum(sizes) == spending.nbytes <= budget
        assert ratio < 0.8 or spending.nbytes > 0.9 * budget
    assert {pair for pairs in fitted.codecs for pair in pairs} <= {*PAIRS}


def test_fewer_bits_come_before_fewer_tokens():
    assert (spend_uniform(HEADS, 0.91, (0, 1)).counts < 1000).all()
    spending = spend_uniform(HEADS, 0.82, (0, 1))
    assert (spending.counts == 1000).all()
    assert {pair for pairs in spending.codecs for pair in pairs} == {("int8", "rot4"), ("rot4", "rot4")}


def test_layers_that_are_not_compressed_are_not_paid_for():
    spending = spend_uniform(HEADS, 0.8, (1,))
    assert 0.15 * HEADS.nbytes * 2 < spending.nbytes <= 0.2 * HEADS.nbytes * 2


def test_too_little_for_one_token_is_refused_with_the_largest_ratio():
    with pytest.raises(ValueError, match=r"leaves \d+ bytes per head, less than one token takes: 0.99\d* is the"):
        spend_uniform(HEADS, 0.9999, (0, 1))


def test_with_curves_all_heads_get_the_codecs_of_least_error():
    gates = uneven_gates(make_tiny())  # errors grow by 10 per halving of the tokens, and little with fewer bits ...
    (pair,) = {pair for pairs in spend_uniform(HEADS, 0.95, (0, 1), gates).codecs for pair in pairs}
    assert pair == ("int4", "int4")
    cheap = torch.tensor([0.0, 0.1, 0.2, 0.3]).expand_as(gates.codec_curves)  # ... and here only with fewer tokens
    gates = replace(gates, codec_curves=cheap)
    (pair,) = {pair for pairs in spend_uniform(HEADS, 0.95, (0, 1), gates).codecs for pair in pairs}
    assert pair == PAIRS[-1]


def test_below_the_measured_shares_most_tokens_are_kept():
    gates = uneven_gates(make_tiny())
    (pair,) = {pair for pairs in spend_uniform(HEADS, 0.9975, (0, 1), gates).codecs for pair in pairs}
    assert pair == PAIRS[-1]
