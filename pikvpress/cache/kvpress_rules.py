"""What kvpress's presses do to a cache after a context was read once, and which of them cannot be served."""

from __future__ import annotations

from kvpress import (
    DecodingPress,
    DMSPress,
    FastKVzipPress,
    KVComposePress,
    KVgradPress,
    KVzipPress,
    PrefillDecodingPress,
)

from pikvpress import models

# They read the context, or questions about it, a second time, and look at attention weights or the cache then.
READ_TWICE = (FastKVzipPress, KVComposePress, KVgradPress, KVzipPress)


def is_read_again(module: models.Attention) -> bool:
    """Return whether a press on the module will read the context a second time."""
    return any(isinstance(press, READ_TWICE) for press in models.presses_of(module))


def check_presses(module: models.Attention, packs: bool) -> None:
    """Raise a ``ValueError`` at the start for presses that will want what a layer does not give while decoding.

    Parameters
    ----------
    module : Attention
        Has the presses' hooks.
    packs : bool
        Whether the layer has codecs of its own.
    """
    for press in models.presses_of(module):
        decoding = press.decoding_press if isinstance(press, PrefillDecodingPress) else press
        if packs and isinstance(decoding, DecodingPress):
            raise ValueError(
                f"{type(press).__name__} compresses again while decoding what this PiKVCache has packed by then: use a "
                "PiKVCache() without codecs"
            )
        if isinstance(press, DMSPress) and press.decoding:
            raise ValueError(
                "DMSPress(decoding=True) masks entries while decoding, which a PiKVCache cannot take out: use "
                "decoding=False, or a DynamicCache"
            )
