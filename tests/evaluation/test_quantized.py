"""Fewer tokens in transformers' quantised cache, for a given share of the bytes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from kvpress import KnormPress

from evaluation.quantized import QuantizedPress, bytes_of


def test_tokens_are_removed_only_where_bits_do_not_suffice(tiny):
    for ratio, share in ((0.5, 0.0), (0.8, 0.0), (0.9, 1 - 0.1 * 32 / 5)):
        press = QuantizedPress(KnormPress(), ratio)
        press.post_init_from_model(tiny)  # a 32-bit model: a number takes 4 bits, and 64 numbers share two scales
        assert press.press.compression_ratio == pytest.approx(share)


def test_bits_that_the_cache_does_not_offer_are_refused():
    with pytest.raises(ValueError, match="bits must be 2 or 4, which the cache supports, got 3"):
        QuantizedPress(KnormPress(), 0.5, bits=3)
    with pytest.raises(ValueError, match="bits must be 1, 2, 3, 4 or 8, which the cache supports, got 5"):
        QuantizedPress(KnormPress(), 0.5, bits=5, backend="hqq")
    with pytest.raises(ValueError, match="backend must be quanto or hqq, got 'gptq'"):
        QuantizedPress(KnormPress(), 0.5, backend="gptq")


@pytest.mark.parametrize("bits, stored", [(8, 8), (4, 4), (3, 3.5), (2, 2), (1, 1)])
def test_numbers_of_hqq_take_whole_words(tiny, bits, stored):
    press = QuantizedPress(KnormPress(), 0.95, bits=bits, backend="hqq")
    press.post_init_from_model(tiny)
    assert press.press.compression_ratio == pytest.approx(1 - 0.05 * 32 / (stored + 1))


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_hqq_holds_the_share_of_the_bytes(source, bits):
    pytest.importorskip("hqq")
    press = QuantizedPress(KnormPress(), 0.95, bits=bits, backend="hqq")
    found = source.prefilled.compress(press)
    assert found.bytes_held == pytest.approx(0.05 * source.full.bytes_held, rel=0.02)


def test_bytes_of_an_hqq_cache_are_codes_scales_and_zero_points():
    made = (torch.zeros(16, 10, dtype=torch.uint8), {"scale": torch.zeros(1, 10), "zero": torch.zeros(1, 10)})
    empty = torch.zeros(0)
    layer = SimpleNamespace(_quantized_keys=made, _quantized_values=made, keys=empty, values=empty)
    assert bytes_of(SimpleNamespace(layers=[layer])) == 2 * (160 + 40 + 40)
