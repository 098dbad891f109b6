"""Names of head features."""

from __future__ import annotations

from pikvpress.routers.feature_names import STATISTICS, feature_names


def test_errors_come_first_then_what_experts_miss_then_statistics():
    assert feature_names(["a", "b"]) == ("error/a", "error/b", "missed/a", "missed/b", *STATISTICS)
