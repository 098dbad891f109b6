"""Settings of routers, as a command line writes them."""

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
        ("dropout", ValueError, "a setting is written NAME=VALUE, as dropout=0.1, not 'dropout'"),
        ("droput=0.1", ValueError, "unknown setting 'droput': did you mean dropout"),
        ("dropout=2", ValueError, r"dropout must lie in \[0, 1\), got 2"),
        ("dropout=much", TypeError, "dropout must be a number, got 'much'"),
        ("top_k=1.5", TypeError, "top_k must be a whole number, got 1.5"),
        ("balance_mode=fair", ValueError, "balance_mode must be one of entropy, variance, gini"),
    ],
)
def test_what_is_no_setting_is_refused(written, error, message):
    with pytest.raises(error, match=message):
        read_settings([written])
