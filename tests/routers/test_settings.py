"""Settings of routers, as given on a command line."""

from __future__ import annotations

import pytest

from pikvpress.routers.settings import RouterSettings, read_settings


def test_settings_are_read_as_they_are_written():
    written = ["dropout=0.1", "top_k=2", "balance_mode=gini", "cache_aware=False", "adaptive_top_k=true"]
    expected = RouterSettings(top_k=2, dropout=0.1, balance_mode="gini", cache_aware=False, adaptive_top_k=True)
    assert read_settings(written) == expected
    assert read_settings([]) == RouterSettings()


@pytest.mark.parametrize(
    ("written", "error", "message"),
    [
        ("dropout", ValueError, "a setting has the form NAME=VALUE, such as dropout=0.1, got 'dropout'"),
        ("droput=0.1", ValueError, "unknown setting 'droput': did you mean dropout"),
        ("dropout=2", ValueError, r"dropout must be in \[0, 1\), got 2"),
        ("dropout=much", TypeError, "dropout must be a number, got 'much'"),
        ("top_k=1.5", TypeError, "top_k must be an integer, got 1.5"),
        ("balance_mode=fair", ValueError, "balance_mode must be one of entropy, variance, gini"),
    ],
)
def test_what_is_no_setting_is_refused(written, error, message):
    with pytest.raises(error, match=message):
        read_settings([written])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"top_k": 0}, ValueError, "top_k must be at least 1"),
        ({"top_k": 1.5}, TypeError, "top_k must be an integer"),
        ({"temperature": 0.0}, ValueError, r"temperature must be in \(0, inf\)"),
        ({"temperature": float("nan")}, ValueError, "temperature"),
        ({"dropout": 1.0}, ValueError, r"dropout must be in \[0, 1\)"),
        ({"importance_threshold": 1.2}, ValueError, r"importance_threshold must be in \[0, 1\]"),
        ({"capacity_factor": 0.5}, ValueError, "capacity_factor"),
        ({"aux_loss_weight": -1}, ValueError, "aux_loss_weight"),
        ({"balance_coefficient": "x"}, TypeError, "balance_coefficient must be a number"),
        ({"balance_mode": "mean"}, ValueError, "entropy, variance, gini"),
        ({"cache_aware": 1}, TypeError, "cache_aware must be True or False"),
        ({"num_groups": 2, "group_top_k": 3}, ValueError, "group_top_k=3 chooses more groups"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        RouterSettings(**settings)
