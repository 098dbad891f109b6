"""A tiny model, and situations measured with it."""

from __future__ import annotations

import pytest

from pikvpress.calibration.fit.budgets import HeadBudgets, error_curves
from pikvpress.experts import make_experts
from tests.calibration.tiny import NAMES, RECIPE, make_router, make_situations, measured, quiet
from tests.conftest import make_tiny


@pytest.fixture(scope="module")
def model():
    return make_tiny("llama", seed=5)


@pytest.fixture(scope="module")
def situations():
    return make_situations(4, 110, 10, 10)


@pytest.fixture(scope="module")
def records(tmp_path_factory, model, situations):
    return measured(model, situations, tmp_path_factory.mktemp("records"), make_experts(NAMES, None))


@pytest.fixture(scope="module")
def budgets(records):
    return HeadBudgets(RECIPE, error_curves(make_router(), records, RECIPE, quiet))


@pytest.fixture(scope="module")
def examples(records, situations):
    return [(record, situation.futures) for record, situation in zip(records, situations, strict=True)]
