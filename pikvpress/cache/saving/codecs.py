"""Codecs as JSON: their names, in what they differ from the codec of that name, and which bases they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from pikvpress.cache.calibrated import Bases, CalibratedCodec
from pikvpress.cache.codec import Codec
from pikvpress.cache.names import codec as named
from pikvpress.cache.saving.file import DTYPES, Pieces


class CodecTable:
    """The distinct codecs of a cache, numbered in the order in which they are asked for.

    Parameters
    ----------
    choices : sequence of Codec or Bases
        The user's choices for keys and values. Calibrated codecs must belong to bases among these.

    Attributes
    ----------
    bases : list of Bases
        Those among the choices, each once.
    rows : list
        The description of each codec.
    """

    def __init__(self, choices: Sequence[Codec | Bases]):
        self.bases = [*{id(choice): choice for choice in choices if isinstance(choice, Bases)}.values()]
        self.rows: list[Any] = []
        self._numbers: dict[Codec, int] = {}
        self._places: dict[Codec, list[Any]] = {
            codec: ["bases", index, side, layer, head]
            for index, bases in enumerate(self.bases)
            for side in ("keys", "values")
            for layer in range(len(getattr(bases, side)["directions"]))
            for head, codec in enumerate(bases.codecs(layer, side == "keys"))
        }

    def number(self, codec: Codec) -> int:
        """Return the number of a codec.

        Raises
        ------
        ValueError
            If it could not be found again by its name.
        """
        if codec not in self._numbers:
            self.rows.append(self._places[codec] if codec in self._places else description(codec))
            self._numbers[codec] = len(self._numbers)
        return self._numbers[codec]

    def numbers(self, codecs: Sequence[Codec]) -> list[int] | int:
        """Return the numbers of several codecs; a single one if they are all the same."""
        found = [self.number(codec) for codec in codecs]
        return found[0] if len(set(found)) == 1 else found

    def choice(self, choice: Codec | Bases) -> Any:
        """Return the description of a user's choice."""
        if isinstance(choice, Bases):
            return ["bases", next(index for index, bases in enumerate(self.bases) if bases is choice)]
        return description(choice)


def description(codec: Codec) -> Any:
    """Return the name of a codec, with the fields in which it differs from the codec of that name, if any.

    Raises
    ------
    ValueError
        If there is no codec of that name and class.
    """
    registered = None if isinstance(codec, CalibratedCodec) else _registered(codec)
    if registered is None:
        raise ValueError(
            f"codec {codec.name!r} cannot be saved, because it cannot be found by its name: add it to "
            "pikvpress.cache.CODECS, or give the cache the bases that it belongs to"
        )
    values = {field.name: getattr(codec, field.name) for field in fields(codec)}
    changed = {name: value for name, value in values.items() if value != getattr(registered, name)}
    wrong = [name for name, value in changed.items() if not isinstance(value, int | float | str | None)]
    if wrong:
        raise ValueError(f"codec {codec.name!r} cannot be saved: its {wrong[0]} is not the registered codec's")
    return [codec.name, changed] if changed else codec.name


def _registered(codec: Codec) -> Codec | None:
    try:
        found = named(codec.name)
    except ValueError:
        return None
    return found if type(found) is type(codec) else None


def restored(row: Any, bases: Sequence[Bases]) -> Codec:
    """Return the codec that a row of a table describes.

    Raises
    ------
    ValueError
        If there is no such codec.
    """
    if isinstance(row, str):
        return named(row)
    if row[0] == "bases":
        _, index, side, layer, head = row
        return bases[index].codecs(layer, side == "keys")[head]
    name, changed = row
    return replace(named(name), **changed)


def restored_choice(row: Any, bases: Sequence[Bases]) -> Codec | Bases:
    """Return the user's choice that a row describes."""
    return bases[row[1]] if isinstance(row, list) and row[0] == "bases" else restored(row, bases)


def bases_pieces(bases: Bases) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Return the description and the tensors of bases."""
    sides = {"keys": bases.keys, "values": bases.values}
    found = {
        side: {name: [str(tensor.dtype).removeprefix("torch."), *tensor.shape] for name, tensor in factors.items()}
        for side, factors in sides.items()
    }
    pieces = [tensor for factors in sides.values() for tensor in factors.values()]
    return {"model": dict(bases.model), "about": dict(bases.about), **found}, pieces


def restored_bases(described: dict[str, Any], pieces: Pieces) -> Bases:
    """Return the bases that were described so."""
    keys, values = (
        {name: pieces.take(DTYPES[dtype], *shape) for name, (dtype, *shape) in described[side].items()}
        for side in ("keys", "values")
    )
    pieces.finish()
    return Bases(described["model"], keys, values, described["about"])
