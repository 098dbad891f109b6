"""A forward that was not completed is undone before the next one."""

from __future__ import annotations

import pytest

from pikvpress import PiKVCache
from tests.cache.asking import CONTEXT, ask, read


def test_every_layer_is_as_long_as_before(llama, context, question):
    cache = read(llama, context, PiKVCache())
    hook = llama.model.layers[0].mlp.register_forward_pre_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ask(llama, question, cache)
    hook.remove()
    assert [layer.get_seq_length() for layer in cache.layers] != [CONTEXT] * 2
    with pytest.raises(ValueError, match=f"ended in layer 0 of 2; .* restored to the {CONTEXT} entries"):
        ask(llama, question, cache)
    assert [layer.get_seq_length() for layer in cache.layers] == [CONTEXT] * 2
    ask(llama, question, cache)


def test_a_first_forward_leaves_nothing(llama, context):
    cache = PiKVCache()
    hook = llama.model.layers[0].mlp.register_forward_pre_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read(llama, context, cache)
    hook.remove()
    with pytest.raises(ValueError, match="restored to the 0 entries"):
        read(llama, context, cache)
    assert cache.nbytes == 0 and read(llama, context, cache).get_seq_length() == CONTEXT
