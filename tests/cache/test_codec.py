"""What codecs can take."""

from __future__ import annotations

import pytest
import torch

from tests.cache.test_ragged import stored


def test_a_head_size_that_does_not_fit_is_refused():
    parts = [torch.randn(4, 20)]
    for name in ("exact", "int8", "int4", "int2"):
        stored(parts, name)
    with pytest.raises(ValueError, match="codec 'int3' packs 8 numbers into whole bytes, but the head size 20"):
        stored(parts, "int3")
    with pytest.raises(ValueError, match="'rank20' keeps 20 directions, which must be fewer than the head size 20"):
        stored(parts, "rank20")
