"""Our presses that work in hooks on layers declare it, and leave nothing behind when a prefill fails."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from kvpress import ComposedPress
from transformers import DynamicCache

from pikvpress import FastVPress, MoERouterPress, PerLayerPress, PiKVPress
from pikvpress.experts.ordered import OrderedScorerPress
from pikvpress.layerwise import LayerwisePress, acts_alone


@dataclass
class Failing(LayerwisePress):
    """A press that keeps everything in the first layer and fails in the second."""

    def compress(self, module, hidden_states, keys, values, attentions, kwargs):
        if module.layer_idx == 1:
            raise ValueError("the second layer")
        return keys, values


def test_a_prefill_that_fails_leaves_the_cache_empty_and_no_hook(llama, ids):
    cache = DynamicCache()
    with pytest.raises(ValueError, match="the second layer"), Failing()(llama), torch.no_grad():
        llama(ids, past_key_values=cache)
    assert cache.get_seq_length() == 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in llama.modules())


def test_our_presses_are_such_presses_and_serve_single_layers():
    assert all(issubclass(kind, LayerwisePress) for kind in (OrderedScorerPress, PerLayerPress))
    PerLayerPress({0: FastVPress(0.5), 1: MoERouterPress(0.5), 2: PiKVPress(0.5), 3: Failing()})


def test_a_press_acts_alone_if_it_or_one_of_ours_is_on_the_module(llama):
    module, press = llama.model.layers[0].self_attn, MoERouterPress(0.5)
    for outer, expected in (
        (press, True),
        (PerLayerPress({0: press}), True),
        (ComposedPress([press]), False),
    ):
        with outer(llama):
            assert acts_alone(press, module) is expected
    assert not acts_alone(press, module)
