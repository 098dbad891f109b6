"""Fewer tokens in transformers' quantised cache, for a given share of the bytes."""

from __future__ import annotations

import pytest
from kvpress import KnormPress

from evaluation.quantized import QuantizedPress


def test_tokens_are_removed_only_where_bits_do_not_suffice(tiny):
    for ratio, share in ((0.5, 0.0), (0.8, 0.0), (0.9, 1 - 0.1 * 32 / 5)):
        press = QuantizedPress(KnormPress(), ratio)
        press.post_init_from_model(tiny)  # a 32-bit model: a number takes 4 bits, and 64 numbers share two scales
        assert press.press.compression_ratio == pytest.approx(share)


def test_bits_that_the_cache_does_not_offer_are_refused():
    with pytest.raises(ValueError, match="bits must be 2 or 4, which the cache supports, got 3"):
        QuantizedPress(KnormPress(), 0.5, bits=3)
