"""Codecs chosen by the user."""

from __future__ import annotations

import pytest

from pikvpress.cache import CODECS
from pikvpress.cache.choice import by_head, known, of_layer, of_rows


def test_a_codec_is_chosen_by_name_or_given():
    assert known("int4") is known(CODECS["int4"]) is CODECS["int4"]
    assert of_layer((CODECS["int4"], CODECS["int8"]), 3) == (CODECS["int4"], CODECS["int8"])
    with pytest.raises(ValueError, match="unknown codec 'int5'"):
        known("int5")


def test_heads_share_a_codec_or_have_one_each():
    each = [CODECS["int4"], CODECS["int8"]]
    assert by_head(CODECS["int4"], 2) == [CODECS["int4"]] * 2 and by_head(each, 2) == each
    with pytest.raises(ValueError, match="there are codecs for 2 KV heads, but 3 heads: calibrate for this model"):
        by_head(each, 3)
    with pytest.raises(ValueError, match="codecs for all heads of a model that is split over ranks cannot be combined"):
        by_head(each, 1)


def test_rows_take_their_codecs_along():
    int8, int4 = CODECS["int8"], CODECS["int4"]
    assert of_rows([int8, int4], [1, 0], 2) == [int8, int4]
    assert of_rows([int8, int8, int4, int8], [1, 0, 1], 2) == [int4, int8, int8, int8, int4, int8]
