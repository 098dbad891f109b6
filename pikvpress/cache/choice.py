"""Which codecs a user chose: one for a side of the cache, or one for every KV head."""

from __future__ import annotations

from collections.abc import Sequence

from pikvpress.cache.calibrated import Bases
from pikvpress.cache.codec import Codec
from pikvpress.cache.names import codec

CodecChoice = Codec | Sequence[Codec]  # of all KV heads of a layer, or of each


def known(choice: str | Codec | Bases) -> Codec | Bases:
    """Return the codec of a name, and what is one already as it is.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    return choice if isinstance(choice, Bases) else codec(choice)


def of_layer(codecs: tuple[Codec | Bases, Codec | Bases], layer: int) -> tuple[CodecChoice, CodecChoice]:
    """Return the codecs of a layer's keys and values."""
    keys, values = codecs
    return (
        keys.codecs(layer, True) if isinstance(keys, Bases) else keys,
        values.codecs(layer, False) if isinstance(values, Bases) else values,
    )


def by_head(choice: CodecChoice, heads: int) -> list[Codec]:
    """Return a codec for every KV head.

    Raises
    ------
    ValueError
        If the choice is for another number of heads.
    """
    if isinstance(choice, Codec):
        return [choice] * heads
    if len(choice) != heads:
        raise ValueError(f"there are codecs for {len(choice)} KV heads, but {heads} heads: calibrate for this model")
    return list(choice)
