"""What kvpress's presses do to a cache after the first reading of a context, and which of them are unsupported."""

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

# They read the context, or questions about it, a second time, and then use attention weights or the cache.
READ_TWICE = (FastKVzipPress, KVComposePress, KVgradPress, KVzipPress)


def is_read_again(module: models.Attention) -> bool:
    """Return whether a press on the module will read the context a second time."""
    return any(isinstance(press, READ_TWICE) for press in models.presses_of(module))


def check_presses(module: models.Attention, packs: bool) -> None:
    """Raise a ``ValueError`` early for presses that will need what a layer does not provide during decoding.

    Parameters
    ----------
    module : Attention
        The module with the hooks of the presses.
    packs : bool
        Whether the layer has its own codecs.
    """
    for press in models.presses_of(module):
        decoding = press.decoding_press if isinstance(press, PrefillDecodingPress) else press
        if packs and isinstance(decoding, DecodingPress):
            raise ValueError(
                f"{type(press).__name__} compresses entries during decoding that this PiKVCache has already packed: "
                "use a PiKVCache() without codecs"
            )
        if isinstance(press, DMSPress) and press.decoding:
            raise ValueError(
                "DMSPress(decoding=True) masks entries during decoding, which a PiKVCache cannot remove: use "
                "decoding=False, or a DynamicCache"
            )
