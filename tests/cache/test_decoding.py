"""Decoding a token never reads a number back from the device, since on a GPU every such read has to wait."""

from __future__ import annotations

import pytest
import torch
from kvpress import AdaKVPress, KnormPress
from torch.utils._python_dispatch import TorchDispatchMode

from pikvpress import PiKVCache
from pikvpress.cache.codec import GROUP

CONTEXT = 200
ASKING = {
    torch.ops.aten._local_scalar_dense.default,  # item(), tolist() of one number, bool(), int()
    torch.ops.aten.nonzero.default,  # indexing by a mask
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
}


class Questions(TorchDispatchMode):
    """Count the operations whose result the host has to wait for."""

    asked = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.asked += function in ASKING
        return function(*args, **(kwargs or {}))


def asked(step):
    with Questions() as questions:
        step()
    return questions.asked


@pytest.mark.parametrize("name", ["h2o", "lru_plus", "adakv", "adaptive", "streaming_llm", "quest"])
def test_a_schedule_asks_only_when_a_page_leaves_the_window(llama, ids, name):
    cache = PiKVCache(window=16, scheduler=name, max_tokens=16 + 2 * GROUP)

    @torch.no_grad()
    def decode(place):
        positions = torch.tensor([[place]])
        token = torch.tensor([[7]])
        llama(input_ids=token, past_key_values=cache, position_ids=positions, cache_position=positions[0])

    with torch.no_grad():
        llama.model(input_ids=ids[:, :CONTEXT], past_key_values=cache)
    steps = len(cache.history.steps)
    counts = [asked(lambda place=place: decode(place)) for place in range(CONTEXT, CONTEXT + 2 * GROUP)]
    assert sum(count > 0 for count in counts) == 2 == (len(cache.history.steps) - steps) // 2


@pytest.mark.parametrize("codec", ["exact", "int4"])
def test_decoding_asks_for_no_number(llama, ids, codec):
    cache = PiKVCache(key_codec=codec, value_codec=codec, window=16)
    step = torch.tensor([[7]])

    @torch.no_grad()
    def decode(place):
        positions = torch.tensor([[place]])
        llama(input_ids=step, past_key_values=cache, position_ids=positions, cache_position=positions[0])

    with torch.no_grad(), AdaKVPress(KnormPress(0.5))(llama):
        llama.model(input_ids=ids[:, :CONTEXT], past_key_values=cache)
    assert asked(lambda: decode(CONTEXT)) > 0  # masked or packed entries are inspected once
    counts = [asked(lambda place=place: decode(place)) for place in range(CONTEXT + 1, CONTEXT + 1 + 3 * GROUP)]
    packing = 0 if codec == "exact" else 2  # a group is full and gets checked
    assert sum(count > 0 for count in counts) == packing
