"""What codecs accept."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import codec
from tests.cache.test_ragged import stored


def test_a_head_size_that_does_not_fit_is_refused():
    parts = [torch.randn(4, 20)]
    for name in ("exact", "int8", "int4", "int2"):
        stored(parts, name)
    with pytest.raises(ValueError, match="codec 'int3' packs 8 numbers into whole bytes, but the head size 20"):
        stored(parts, "int3")
    with pytest.raises(ValueError, match="'rank20' keeps 20 directions, which must be fewer than the head size 20"):
        stored(parts, "rank20")


@pytest.mark.parametrize("name", ["exact", "int4", "rot2"])
def test_rows_are_read_back_as_they_are_stored(name):
    states, one = torch.randn(70, 16, generator=torch.Generator().manual_seed(0)), codec(name)
    found = one.read_back(states, True)
    assert torch.equal(found, one.decode(one.encode(states, True), 70, 16, states.dtype, True))
    assert torch.equal(found, states) is (name == "exact")
