"""How futures read a context."""

from __future__ import annotations

import torch

from pikvpress.calibration.measure.cost import selection_cost
from pikvpress.calibration.measure.selection import kept_keys
from tests.calibration.tiny import RECIPE, make_situations, measured
from tests.conftest import make_tiny


def test_the_strongest_rows_carry_most_of_the_cost(tmp_path):
    (record,) = measured(make_tiny("llama", seed=5), make_situations(1, 110, 10, 10), tmp_path)
    reading, few = record.layer(0).reading, record.layer(0, 20).reading
    assert few.attention.shape[1] == 20 < reading.attention.shape[1]
    kept = kept_keys(
        torch.rand(2, 110, generator=torch.Generator().manual_seed(0)), torch.tensor([40, 40]), RECIPE.softness
    )
    share = selection_cost(few, kept).sum() / selection_cost(reading, kept).sum()
    assert 0.5 < share <= 1 + 1e-5
    assert torch.equal(record.layer(0, 1000).reading.attention, reading.attention)
