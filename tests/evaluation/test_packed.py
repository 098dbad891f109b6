"""All tokens are packed, none removed."""

from __future__ import annotations

import pytest
import torch

from evaluation.compressors.prefilled_context import PrefilledContext
from evaluation.packed import PackedPress
from pikvpress.cache import CODECS


def test_bytes_and_numbers_are_those_of_the_codecs(tiny, random_context):
    context = random_context[:100]
    prefilled = PrefilledContext(tiny, context)
    full, packed = prefilled.compress(None), prefilled.compress(PackedPress("rot4", "int8"))
    per_head = CODECS["rot4"].nbytes(100, 32, torch.float32, True) + CODECS["int8"].nbytes(
        100, 32, torch.float32, False
    )
    assert per_head * 4 <= packed.bytes_held < (per_head + 32) * 4
    for layer, (keys, values) in enumerate(packed.layers):
        assert keys.shape == full.layers[layer][0].shape and packed.masked[layer] is None
        assert 0 < (values - full.layers[layer][1]).abs().max() < 0.1
        assert torch.nn.functional.cosine_similarity(keys, full.layers[layer][0], dim=-1).min() > 0.97


def test_unknown_codecs_are_refused_at_once():
    with pytest.raises(ValueError, match="unknown codec 'rot9'"):
        PackedPress("rot9", "int4")
