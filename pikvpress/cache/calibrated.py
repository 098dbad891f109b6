"""A low-rank codec with calibrated directions, shared by all contexts of a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pikvpress import models
from pikvpress.cache.codec import Codec
from pikvpress.cache.codecs import CODECS
from pikvpress.tensor_file import read_tensors, write_tensors

FORMAT = "pikvpress-bases-1"
COORDINATES = CODECS["int8"]


@dataclass(frozen=True, eq=False)
class CalibratedCodec(Codec):
    """Coordinates along a head's leading directions, in 8 bits.

    An entry is decoded as mean + directionsᵀ c. If a correction was learned, a small perceptron of the coordinates c is
    added, which predicts a part of what the directions leave out.

    Parameters
    ----------
    model : mapping of str to str
        `models.fingerprint` of layer 0 of the model that the head belongs to.
    factors : mapping of str to torch.Tensor
        Factors of this head: `mean` (D,), `directions` (r, D), `spread` (r,) of the coordinates; with a correction also
        `inward` (r, h), `bias` (h,), `outward` (h, D). float16.
    """

    model: Mapping[str, str] = field(default_factory=dict)
    factors: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Return whether this is the same object: each head has its own codec."""
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @property
    def unit(self) -> int:
        """Number of channels that a row must have: the codec stores only complete rows."""
        return self.factors["directions"].shape[1]

    @property
    def has_kernel(self) -> bool:
        """Whether attention kernels read it."""
        return False

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.factors["directions"].shape[0]

    def check(self, head_dim: int) -> None:
        """Raise a ``ValueError`` if the directions belong to heads of another size."""
        if head_dim != self.unit:
            raise ValueError(
                f"codec {self.name!r} was calibrated for heads of {self.unit}, but these heads have {head_dim}: "
                "calibrate it for this model"
            )

    def check_reader(self, module: models.Attention) -> None:
        """Raise a ``ValueError`` if layer 0 belongs to another model."""
        found = models.fingerprint(module)
        differing = [
            f"{name}: {self.model[name]}, model {found[name]}" for name in found if self.model[name] != found[name]
        ]
        if differing:
            raise ValueError(
                f"codec {self.name!r} was calibrated for another model ({'; '.join(differing)}): calibrate it for this "
                "one"
            )

    def nbytes(self, rows: int, width: int, dtype: torch.dtype, is_keys: bool) -> int:
        """Return the bytes of ``rows`` rows: coordinates and scales. `Bases.nbytes` counts the directions."""
        return COORDINATES.nbytes(rows, self.rank, dtype, True)

    def encode(self, states: torch.Tensor, is_keys: bool) -> torch.Tensor:
        """Encode rows (n, d) as bytes."""
        factors = self._on(states.device)
        return COORDINATES.encode((states.float() - factors["mean"]) @ factors["directions"].T, True)

    def decode(self, stored: torch.Tensor, rows: int, width: int, dtype: torch.dtype, is_keys: bool) -> torch.Tensor:
        """Decode bytes to rows (n, d)."""
        factors = self._on(stored.device)
        coordinates = COORDINATES.decode(stored, rows, self.rank, torch.float32, True)
        return read_back(coordinates, factors).to(dtype)

    def joined(self, first: torch.Tensor, second: torch.Tensor, rows: tuple[int, int], width: int) -> torch.Tensor:
        """Return the bytes of two stored parts as one; the groups of the first part must be full."""
        return COORDINATES.joined(first, second, rows, self.rank)

    def cut(self, stored: torch.Tensor, rows: tuple[int, int], width: int, is_keys: bool) -> torch.Tensor:
        """Return the bytes of the first rows[1] of rows[0] stored rows; rows[1] is a multiple of the group."""
        return COORDINATES.cut(stored, rows, self.rank, True)

    def groups(self, stored: torch.Tensor, kept: torch.Tensor, rows: int, width: int) -> torch.Tensor:
        """Return the bytes of some of the full groups of stored rows."""
        return COORDINATES.groups(stored, kept, rows, self.rank)

    def _on(self, device: torch.device) -> Mapping[str, torch.Tensor]:
        if device not in self._moved:
            self._moved[device] = {name: tensor.to(device, torch.float32) for name, tensor in self.factors.items()}
        return self._moved[device]

    @cached_property
    def _moved(self) -> dict[torch.device, Mapping[str, torch.Tensor]]:
        return {}


def read_back(coordinates: torch.Tensor, factors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Decode coordinates (..., n, r) to rows (..., n, D); see `CalibratedCodec`."""
    numbers = coordinates @ factors["directions"] + factors["mean"].unsqueeze(-2)
    if "outward" in factors:
        hidden = (coordinates / factors["spread"].unsqueeze(-2)) @ factors["inward"] + factors["bias"].unsqueeze(-2)
        numbers = numbers + hidden.relu() @ factors["outward"]
    return numbers


@dataclass(frozen=True)
class Bases:
    """Directions of all heads of a model, for `PiKVCache`: see `calibrate_bases`.

    Parameters
    ----------
    model : mapping of str to str
        `models.fingerprint` of the model's layer 0.
    keys, values : mapping of str to torch.Tensor
        As `CalibratedCodec.factors`, with layers and KV heads as the first dimensions.
    about : mapping of str to object
        How they were calibrated, and what they explain. Stored as JSON.
    """

    model: Mapping[str, str]
    keys: Mapping[str, torch.Tensor]
    values: Mapping[str, torch.Tensor]
    about: Mapping[str, Any] = field(default_factory=dict)

    def codecs(self, layer: int, are_keys: bool) -> tuple[CalibratedCodec, ...]:
        """Return the codecs of a layer's heads.

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        made = self._codecs["keys" if are_keys else "values"]
        if layer >= len(made):
            raise ValueError(f"bases of {len(made)} layers have no layer {layer}: calibrate them for this model")
        return made[layer]

    def __deepcopy__(self, memo: dict[int, Any]) -> Bases:
        """Return self: copied caches share the bases."""
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of the directions, once for all contexts."""
        return sum(tensor.nbytes for side in (self.keys, self.values) for tensor in side.values())

    @cached_property
    def _codecs(self) -> dict[str, list[tuple[CalibratedCodec, ...]]]:
        made = {}
        for side, factors in (("keys", self.keys), ("values", self.values)):
            layers, heads, rank = factors["directions"].shape[:3]
            name = f"calibrated{rank}{'+learned' if 'outward' in factors else ''}"
            made[side] = [
                tuple(
                    CalibratedCodec(
                        name, None, self.model, {key: tensor[layer, head] for key, tensor in factors.items()}
                    )
                    for head in range(heads)
                )
                for layer in range(layers)
            ]
        return made


def save_bases(path: str | Path, bases: Bases) -> None:
    """Write bases; an existing file is replaced atomically."""
    tensors = {f"{side}/{name}": tensor for side in ("keys", "values") for name, tensor in getattr(bases, side).items()}
    about = {"format": FORMAT, "model": json.dumps(dict(bases.model)), "about": json.dumps(dict(bases.about))}
    write_tensors(Path(path), tensors, about)


def load_bases(path: str | Path) -> Bases:
    """Read a file written by `save_bases`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it does not contain bases, or is truncated or altered.
    """
    tensors, metadata = read_tensors(Path(path), "bases", FORMAT)
    sides: dict[str, dict[str, torch.Tensor]] = {"keys": {}, "values": {}}
    for name, tensor in tensors.items():
        side, _, factor = name.partition("/")
        sides[side][factor] = tensor
    return Bases(json.loads(metadata["model"]), sides["keys"], sides["values"], json.loads(metadata["about"]))
