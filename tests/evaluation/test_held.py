"""Ways to stay within a ceiling while a text is read."""

from __future__ import annotations

import pytest
import torch
from kvpress import KnormPress

from evaluation.held import HeldDecodingPress, Room, ScheduledPress
from pikvpress import PiKVCache
from pikvpress.cache.codec import GROUP as PAGE

ENTRY = 2 * 32 * 4 * 4  # bytes of a token in the two layers of the small model, with two KV heads each


@torch.no_grad()
@pytest.mark.parametrize("at_once", [1, 16])
def test_kvpress_s_press_uses_what_it_may_hold_and_no_more(at_once, tiny, random_context):
    room = Room(tokens=150, nbytes=150 * ENTRY, prompt=200, at_once=at_once)
    cache, around = HeldDecodingPress(base_press=KnormPress()).begin(tiny, room)
    held = []
    with around:
        tiny.model(input_ids=torch.tensor([random_context[:200]]), past_key_values=cache)
        held.append(cache.get_seq_length())
        for piece in torch.tensor([random_context[200:]]).split(at_once, dim=1):
            tiny(input_ids=piece, past_key_values=cache, position_ids=torch.arange(piece.shape[1])[None] + 200)
            held.append(cache.get_seq_length())
    least = 150 - PAGE + at_once
    assert held[0] == least and min(held) == least and max(held) == 150
    assert not any(layer.self_attn._forward_hooks for layer in tiny.model.layers)


def test_schedulers_have_a_ceiling_of_bytes_or_of_what_is_read(tiny):
    room = Room(tokens=300, nbytes=300 * ENTRY, prompt=200, at_once=1)
    cache, _ = ScheduledPress(scheduler="h2o", codec="rot4", window=16).begin(tiny, room)
    assert isinstance(cache, PiKVCache) and cache.packs
    assert str(cache.current_schedule) == f"h2o: at most {300 * ENTRY:,} bytes"
    press = ScheduledPress(scheduler="quest")
    cache, _ = press.begin(tiny, room)
    assert str(cache.current_schedule) == "quest: at most 300 entries a head" and not press.counts_bytes


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"scheduler": "h20"}, "did you mean h2o"), ({"codec": "rot9"}, "unknown codec 'rot9'")],
)
def test_unknown_names_are_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        ScheduledPress(**settings)
