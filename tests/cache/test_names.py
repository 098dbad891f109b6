"""Codecs by name."""

from __future__ import annotations

import pytest

from pikvpress.cache import CODECS, LowRankCodec, codec


def test_a_name_says_it_all():
    assert codec("int4") is CODECS["int4"] is codec(CODECS["int4"])
    assert codec("rank16+int2") == LowRankCodec("rank16+int2", None, 16, CODECS["int2"])


def test_unknown_names_are_refused():
    for name in ("int5", "rank0", "rank8+int5", "rank"):
        with pytest.raises(ValueError, match=f"unknown codec '{name.replace('+', '.')}': .*known are exact, int8"):
            codec(name)
