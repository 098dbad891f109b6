"""From dense to ragged: encoding all heads of a codec together is the same as encoding each by itself."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import codec
from pikvpress.cache.ragged import Ragged
from pikvpress.cache.storing import kept_bytes, store_kept

CODECS = [codec(name) for name in ("int8", "exact", "int4", "int8")]


@pytest.mark.parametrize("is_keys", [True, False])
@pytest.mark.parametrize("cleared", [False, True])
def test_kept_entries_are_stored_as_each_head_would_be(is_keys, cleared):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 4, 150, 32, generator=generator)
    if cleared:
        states[:, 1:, :, 4:9] = 0
    kept = torch.rand(2, 4, 150, generator=generator) < 0.5
    kept[1, 2] = False
    parts = [states[row, head][kept[row, head]] for row in range(2) for head in range(4)]
    found, expected = store_kept(states, kept, CODECS, is_keys), Ragged.store(parts, CODECS * 2, is_keys)
    assert torch.equal(found.buffer, expected.buffer) and found.counts == expected.counts
    assert kept_bytes(states, kept, CODECS, is_keys) == found.nbytes
    assert any(live is not None for live in found.channels) == (cleared and is_keys)


def test_channels_may_be_kept_for_what_is_to_be_joined():
    states = torch.randn(1, 1, 64, 32, generator=torch.Generator().manual_seed(0))
    states[..., 3] = 0
    kept = torch.ones(1, 1, 64, dtype=torch.bool)
    assert store_kept(states, kept, CODECS[:1], True, all_channels=True).channels == (None,)
    assert store_kept(states, kept, CODECS[:1], True).channels[0] is not None
