"""What kvpress's presses do to a cache after the first reading of a context, and which of them are unsupported."""

from __future__ import annotations

from pikvpress import models
from pikvpress.kvpress_at_hand import READ_TWICE, masks_while_decoding, removes_while_decoding


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
        if packs and removes_while_decoding(press):
            raise ValueError(
                f"{type(press).__name__} compresses entries during decoding that this PiKVCache has already packed: "
                "use a PiKVCache() without codecs"
            )
        if masks_while_decoding(press):
            raise ValueError(
                "DMSPress(decoding=True) masks entries during decoding, which a PiKVCache cannot remove: use "
                "decoding=False, or a DynamicCache"
            )
