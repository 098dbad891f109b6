"""The user's choice of codecs: one for all keys or values, or one for every KV head."""

from __future__ import annotations

from collections.abc import Sequence

from pikvpress import models
from pikvpress.cache.calibrated import Bases
from pikvpress.cache.codec import Codec
from pikvpress.cache.names import codec
from pikvpress.ranks import shard_of

CodecChoice = Codec | Sequence[Codec]  # one for all KV heads of a layer, or one for each


def known(choice: str | Codec | Bases) -> Codec | Bases:
    """Return the codec with a given name; codecs are returned unchanged.

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


def of_rows(codecs: Sequence[Codec], rows: Sequence[int], heads: int) -> Sequence[Codec]:
    """Return the codecs for selected rows of a batch, if there is one for each head of each row."""
    if len(codecs) == heads:
        return codecs
    return [codecs[row * heads + head] for row in rows for head in range(heads)]


def by_head(choice: CodecChoice, heads: int, module: models.Attention | None = None) -> list[Codec]:
    """Return one codec for every KV head that a layer holds.

    Parameters
    ----------
    choice : Codec or sequence of Codec
        One for all KV heads, or one for each of the model.
    heads : int
        KV heads that the layer holds.
    module : Attention, optional
        The module that reads the layer, which knows which heads of the model these are.

    Raises
    ------
    ValueError
        If the choice was made for another number of heads.
    """
    if isinstance(choice, Codec):
        return [choice] * heads
    if module is not None and len(choice) == shard_of(module).total:
        choice = shard_of(module).own(choice)
    if len(choice) != heads:
        split = "; codecs for all heads of a model that is split over ranks cannot be combined with a scheduler"
        raise ValueError(
            f"there are codecs for {len(choice)} KV heads, but {heads} heads: calibrate for this model"
            + (split if len(choice) > heads else "")
        )
    return list(choice)
