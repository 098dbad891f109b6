"""Presses that ask more of a cache than it can do."""

from __future__ import annotations

import pytest
from kvpress import DecodingPress, DMSPress, KnormPress, KVzipPress, PrefillDecodingPress

from pikvpress import PiKVCache, models
from pikvpress.cache.kvpress_rules import is_read_again
from tests.cache.asking import read


@pytest.mark.parametrize(
    ("press", "cache", "message"),
    [
        (
            DMSPress(KnormPress(), threshold=-3.0, decoding=True),
            PiKVCache(),
            r"DMSPress\(decoding=True\) masks",
        ),
        (
            DecodingPress(KnormPress(), 4, 48),
            PiKVCache("int8", "int8"),
            "DecodingPress compresses entries during decoding",
        ),
        (
            PrefillDecodingPress(KnormPress(0.5), DecodingPress(KnormPress(), 4, 48)),
            PiKVCache("int4", "int4"),
            "PrefillDecodingPress compresses entries during decoding",
        ),
    ],
)
def test_presses_that_will_want_more_while_decoding_are_refused_at_the_start(llama, context, press, cache, message):
    with pytest.raises(ValueError, match=message):
        read(llama, context, cache, press)


def test_contexts_are_read_again_while_such_a_press_is_on(llama):
    module = models.attention_layers(llama)[0]
    handles = [
        module.register_forward_hook(press.forward_hook, with_kwargs=True)
        for press in (KnormPress(0.5), KVzipPress(0.5))
    ]
    assert is_read_again(module)
    handles[1].remove()
    assert not is_read_again(module)
    handles[0].remove()
