"""The contents of one layer as pieces of a section, and a short description that tells how to read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pikvpress.cache.codec import Codec
from pikvpress.cache.compressed import Compressed
from pikvpress.cache.entries import Entries
from pikvpress.cache.keeper import Keeper
from pikvpress.cache.ragged import Ragged, stored_bytes
from pikvpress.cache.saving.codecs import CodecTable
from pikvpress.cache.saving.file import DTYPES, Pieces
from pikvpress.cache.saving.keepers import check_keeper, described_keeper, restored_keeper
from pikvpress.cache.schedule import Schedule
from pikvpress.cache.stretch import Stretch
from pikvpress.cache.tail import DenseTail

FLAGS = ("depth", "_slides", "_follows_padding")  # attributes of a layer that are stored as they are


@dataclass(frozen=True)
class LayerContents:
    """What a layer holds: its entries, and its other attributes.

    Parameters
    ----------
    entries : Entries
        The entries.
    attributes : dict
        `depth`, `_slides`, `_follows_padding`, `_was_padded`, `_padding` and `_following`, as in `CompressibleLayer`.
    keeper : Keeper, optional
        What keeps it within a ceiling.
    """

    entries: Entries
    attributes: dict[str, Any]
    keeper: Keeper | None = None

    @staticmethod
    def of(layer: Any) -> LayerContents:
        """Return the contents of a layer. Pending compression is applied to them, not to the layer."""
        state = layer.__getstate__()
        attributes = {name: state[name] for name in (*FLAGS, "_was_padded", "_padding", "_following")}
        if attributes["_padding"] is not None and not bool(attributes["_padding"].any()):
            attributes["_padding"] = None
        entries = state["entries"] if "entries" in state else state["_away"].on(torch.device("cpu"))
        return LayerContents(entries, attributes, state["keeper"])

    @property
    def nbytes(self) -> int:
        """Bytes held, as in `CompressibleLayer`."""
        padding = self.attributes["_padding"]
        recorded = 0 if self.keeper is None else self.keeper.nbytes
        return self.entries.nbytes + recorded + (0 if padding is None else padding.nbytes)

    def to(self, device: torch.device) -> LayerContents:
        """Return a copy on another device, to which the keeper is moved; the same on the same one."""
        if self.entries.tail.keys.device == device:
            return self
        padding = self.attributes["_padding"]
        moved = None if padding is None else padding.to(device)
        if self.keeper is not None:
            self.keeper.to(device)
        return LayerContents(self.entries.to(device), self.attributes | {"_padding": moved}, self.keeper)

    def check(self) -> None:
        """Raise a ``ValueError`` for channels and records that entries do not have: other memory would be read."""
        if self.keeper is not None:
            check_keeper(self.keeper, self.entries)
        for stretch in self.entries.compressed.stretches:
            for live in stretch.keys.channels:
                if live is not None and not bool(((live >= 0) & (live < stretch.keys.head_dim)).all()):
                    raise ValueError(f"entries of {stretch.keys.head_dim} channels have no channels {live.tolist()}")

    def described(self, table: CodecTable) -> tuple[dict[str, Any], list[torch.Tensor]]:
        """Return the description of the contents and their pieces.

        Raises
        ------
        ValueError
            If a codec cannot be found again by its name.
        """
        tail, compressed, padding = self.entries.tail, self.entries.compressed, self.attributes["_padding"]
        following, stretches = self.attributes["_following"], compressed.stretches
        described = {
            "dtypes": [name_of(tail.keys.dtype), name_of(tail.values.dtype)],
            "shapes": [[*tail.keys.shape], [*tail.values.shape]],
            "padding": None if padding is None else [*padding.shape],
            "was_padded": self.attributes["_was_padded"],
            "following": None if following is None else [table.numbers(side) for side in following],
            "decoded": compressed.decoded is not None,
            "lengths": [stretch.length for stretch in stretches],
            "stored": [[name_of(side.dtype) for side in (stretch.keys, stretch.values)] for stretch in stretches],
            "counts": [_shortened(stretch.counts) for stretch in stretches],
            "codecs": [[table.numbers(side) for side in stretch.codecs] for stretch in stretches],
            "channels": [_widths(stretch.keys) for stretch in stretches],
            "flags": [self.attributes[name] for name in FLAGS],
        }
        pieces = [] if padding is None else [padding]
        for stretch in stretches:
            pieces += [stretch.keys.buffer, stretch.values.buffer]
            pieces += [live for live in stretch.keys.channels if live is not None]
        keeper, records = (None, []) if self.keeper is None else described_keeper(self.keeper, table)
        return described | {"keeper": keeper}, [*pieces, tail.keys, tail.values, *records]


def restored_contents(
    described: dict[str, Any], pieces: Pieces, codecs: Sequence[Codec], schedule: Schedule | None, layer: int
) -> LayerContents:
    """Return the contents that were described so. Nothing is read.

    Parameters
    ----------
    described : dict
        The description.
    pieces : Pieces
        The layer's section.
    codecs : sequence of Codec
        The codecs of the table.
    schedule : Schedule, optional
        The schedule of the cache.
    layer : int
        Index of the layer.

    Raises
    ------
    ValueError
        If description and pieces do not agree.
    """
    shapes, flags = described["shapes"], dict(zip(FLAGS, described["flags"], strict=True))
    padding = None if described["padding"] is None else pieces.take(torch.bool, *described["padding"])
    stretches = [_stretch(described, number, pieces, codecs) for number in range(len(described["lengths"]))]
    tail = DenseTail(
        *(pieces.take(DTYPES[name], *shape) for name, shape in zip(described["dtypes"], shapes, strict=True))
    )
    kept, keeper = described.get("keeper"), None
    if schedule is not None and kept is not None:
        keeper = restored_keeper(kept, pieces, codecs, shapes[0][1], schedule, layer)
    pieces.finish()
    context, decoded = stretches, None
    if described["decoded"]:
        *context, decoded = stretches
    following = described["following"]
    if following is not None:
        following = tuple(_by_part(side, shapes[0][1], codecs) for side in following)
    entries = Entries(tail, Compressed(tuple(context), decoded))
    removed = {"_was_padded": bool(described.get("was_padded", False)), "_padding": padding, "_following": following}
    return LayerContents(entries, flags | removed, keeper)


def _stretch(described: dict[str, Any], number: int, pieces: Pieces, codecs: Sequence[Codec]) -> Stretch:
    shapes, length = described["shapes"], described["lengths"][number]
    parts = shapes[0][0] * shapes[0][1]
    counts = tuple(_lengthened(described["counts"][number], parts))
    most = sum(described["lengths"])  # of a scheduled layer, only the last stretch says of how many entries they are
    if len(counts) != parts or not all(0 <= count <= most for count in counts):
        raise ValueError(f"{parts} heads cannot hold {counts} of {most} entries")
    none = (None,) * parts
    of_keys = described["channels"][number] or none
    sides = []
    for side, widths in enumerate((of_keys, none)):
        chosen, dtype = (
            _by_part(described["codecs"][number][side], parts, codecs),
            DTYPES[described["stored"][number][side]],
        )
        size = shapes[side][3]
        sizes = (
            stored_bytes(codec, count, size if width is None else width, dtype, side == 0)
            for codec, count, width in zip(chosen, counts, widths, strict=True)
        )
        sides.append(Ragged(pieces.take(torch.uint8, sum(sizes)), counts, chosen, none, size, dtype, side == 0))
    channels = tuple(None if width is None else pieces.take(torch.int16, width) for width in of_keys)
    return Stretch(replace(sides[0], channels=channels), sides[1], length)


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a data type in a file, or raise a ``ValueError`` if files do not hold it."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"keys and values in {name} cannot be saved: load the model in one of {', '.join(DTYPES)}")
    return name


def _shortened(numbers: Sequence[int]) -> list[int] | int:
    """Return numbers, or a single one if they are all the same."""
    return numbers[0] if len(set(numbers)) == 1 else list(numbers)


def _lengthened(numbers: list[int] | int, count: int) -> list[int]:
    return [numbers] * count if isinstance(numbers, int) else numbers


def _by_part(numbers: list[int] | int, count: int, codecs: Sequence[Codec]) -> tuple[Codec, ...]:
    return tuple(codecs[number] for number in _lengthened(numbers, count))


def _widths(keys: Ragged) -> list[int | None] | None:
    """Return how many channels each part stores, None for all; None if that holds for all parts."""
    if all(live is None for live in keys.channels):
        return None
    return [None if live is None else len(live) for live in keys.channels]
