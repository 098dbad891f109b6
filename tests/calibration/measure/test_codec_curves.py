"""The cost of fewer bits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pikvpress.calibration.fit.budgets import error_curves
from pikvpress.calibration.fit.queries import choose_queries
from pikvpress.calibration.measure import codec_curves as module
from pikvpress.calibration.measure.codec_curves import codec_curves
from pikvpress.experts import make_experts
from tests.calibration.tiny import NAMES, RECIPE, make_router, make_situations, measured, quiet
from tests.conftest import make_tiny

PAIRS = (("exact", "exact"), ("int8", "int8"), ("int2", "int2"))
WHOLE = replace(RECIPE, rows=10_000, codec_pairs=PAIRS, keep_shares=(1.0, 0.5, 0.25, 0.125), bank=100)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """Return a model, records and, for each record, the queries of its own futures."""
    model, folder = make_tiny("llama", seed=5), tmp_path_factory.mktemp("records")
    records = measured(model, make_situations(2, 110, 10, 10), folder, make_experts(NAMES, None))
    return model, records, [choose_queries(model, [record], WHOLE) for record in records]


def test_without_refitting_exact_codecs_cost_what_tokens_cost(example, monkeypatch):
    model, records, banks = example
    monkeypatch.setattr(module, "refit_values", lambda queries, wanted, keys, values, scaling: values)
    told = []
    curves = codec_curves(model, make_router(), records, banks, WHOLE, told.append)
    assert curves.shape == (3, 2, 2, 3, 4) and told == ["measuring codecs"] * 2
    torch.testing.assert_close(curves[..., 0, :], error_curves(make_router(), records, WHOLE, quiet))


def test_fewer_bits_cost_more_and_refitting_with_the_queries_to_come_costs_less(example):
    model, records, banks = example
    curves = codec_curves(model, make_router(), records, banks, WHOLE, quiet)
    whole = curves[..., 0].sum(dim=(0, 1, 2))  # all tokens are kept
    assert whole[0] < whole[1] < whole[2]
    without = error_curves(make_router(), records, WHOLE, quiet)[..., 1:].sum(dim=(0, 1, 2))
    assert (curves[..., 0, 1:].sum(dim=(0, 1, 2)) < 0.8 * without).all()


def test_an_order_that_is_the_same_at_every_ratio_is_measured_once(example, monkeypatch):
    model, records, banks = example
    router, measured_orders = make_router("static"), []
    costs = module._StoredLayer.costs
    monkeypatch.setattr(
        module._StoredLayer, "costs", lambda self, *args: measured_orders.append(args) or costs(self, *args)
    )
    with torch.no_grad():
        router.static.copy_(torch.tensor([30.0, 0, 0, 0]).expand_as(router.static))  # keydiff alone, at every ratio
    curves = codec_curves(model, router, records[:1], banks[:1], WHOLE, quiet)
    assert len(measured_orders) == len(records[0].layers)
    assert torch.equal(curves[0], curves[1]) and torch.equal(curves[0], curves[2])
