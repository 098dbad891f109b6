"""What every way of running a press provides."""

from __future__ import annotations

import pytest

from evaluation.compressors.compressor import Compressor


def test_a_way_of_ones_own_must_compress_and_need_do_no_more():
    with pytest.raises(TypeError, match="abstract"):
        Compressor()

    class Nothing(Compressor):
        def compress(self, press, ratio, source, sample=None):
            return source

    way = Nothing()
    assert way.validate("knorm", None) is None and way.while_answering(None, 0.5) is None
    assert not way.masks and not way.told and way == Nothing() != Nothing(masks=True)
