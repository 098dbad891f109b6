"""What presses with a router share."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from pikvpress import MoERouterPress, PiKVPress
from pikvpress.presses.router_press import RouterPress


def test_both_presses_are_router_presses():
    assert issubclass(MoERouterPress, RouterPress) and issubclass(PiKVPress, RouterPress)


@torch.no_grad()
def test_a_model_is_left_as_it_was_found(llama, ids):
    before = {name: len(module._forward_hooks) for name, module in llama.named_modules()}
    for fails in (False, True):
        press, cache = MoERouterPress(0.5, gates=None), DynamicCache()
        with press(llama):
            if fails:
                with pytest.raises(ValueError, match="the context is empty"):
                    llama(ids[:, :0], past_key_values=cache)
            else:
                llama(ids, past_key_values=cache)
        assert {name: len(module._forward_hooks) for name, module in llama.named_modules()} == before
        assert not any(hasattr(layer.self_attn, "rotary_emb") for layer in llama.model.layers)


def test_presses_made_alike_are_alike():
    assert MoERouterPress(0.5) == MoERouterPress(0.5) != MoERouterPress(0.6)
    assert PiKVPress(0.5) == PiKVPress(0.5) and "0.5" in repr(PiKVPress(0.5))
