"""Labels that do not overlap."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from evaluation.report.figures.labels import place, spread


def test_spread_labels_keep_order_gap_and_bounds() -> None:
    wanted = [50.0, 51.0, 50.5, 0.0, 99.0]
    places = spread(wanted, 10.0, 0.0, 100.0)
    ordered = sorted(places)
    assert min(b - a for a, b in pairwise(ordered)) >= 10.0 - 1e-9
    assert np.argsort(places).tolist() == np.argsort(wanted).tolist()
    assert ordered[0] >= 0.0 and ordered[-1] <= 100.0
    assert places[2] == pytest.approx(50.5)


def test_a_label_finds_free_room_or_none() -> None:
    spot = place((50.0, 50.0), (20.0, 10.0), [(0.0, 50.0, 100.0, 100.0)], (0.0, 0.0, 100.0, 100.0))
    assert spot is not None and spot[3] <= 50.0
    assert place((50.0, 50.0), (20.0, 10.0), [(0.0, 0.0, 100.0, 100.0)], (0.0, 0.0, 100.0, 100.0)) is None
