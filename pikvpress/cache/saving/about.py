"""What the file of a saved cache says about it."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pikvpress.cache.ceiling import Ceiling
from pikvpress.cache.saving.file import MappedFile, well_formed
from pikvpress.model_digest import ModelDigest, as_bytes
from pikvpress.plan import Plan

PLAN = "plan"
LARGEST_PLAN = 100_000_000


@dataclass(frozen=True)
class SavedCache:
    """What a file says about the cache in it; see `saved_cache`.

    Attributes
    ----------
    version : int
        Version of the file format.
    model : ModelDigest
        The model that filled the cache.
    length : int
        Number of tokens that the first layer has seen or, if a press shortened all heads alike, has kept.
    input_ids : str or None
        Digest of the token ids, if they were given when the cache was saved: see `digest_of_ids`.
    press : dict or None
        Class and settings of the press, if it was given.
    plan : Plan or None
        The plan of the press, if it was given and has one.
    schedule : str or None
        Scheduler and ceiling, if the cache has a schedule.
    """

    version: int
    model: ModelDigest
    length: int
    input_ids: str | None
    press: dict[str, Any] | None
    plan: Plan | None
    schedule: str | None

    @staticmethod
    def of(file: MappedFile) -> SavedCache:
        """Return what an open file says.

        Raises
        ------
        ValueError
            If the plan has been altered.
        """
        contents = file.contents
        first = next((layer for layer in contents["layers"] if layer is not None), None)
        length = 0 if first is None else sum(first["lengths"]) + first["shapes"][0][2]
        model = ModelDigest(**contents["model"])
        return SavedCache(
            file.version, model, length, contents["input_ids"], contents["press"], _plan(file), _schedule(contents)
        )


def saved_cache(path: str | Path) -> SavedCache:
    """Return what a file written by `PiKVCache.save` says about the cache, without loading it or needing its model.

    Parameters
    ----------
    path : str or Path
        The file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is something else, truncated, altered where this reads it, or was written by a newer version.
    """
    file = MappedFile(Path(path))
    with well_formed(file.path):
        return SavedCache.of(file)


def digest_of_ids(input_ids: torch.Tensor) -> str:
    """Return the SHA-256 of token ids and their shape, the same for all integer types and devices.

    Parameters
    ----------
    input_ids : torch.Tensor
        Token ids, shape (batch, tokens).

    Raises
    ------
    TypeError, ValueError
        If it is not a tensor of integers, or has another number of dimensions.
    """
    if not isinstance(input_ids, torch.Tensor) or input_ids.is_floating_point() or input_ids.dtype == torch.bool:
        raise TypeError(
            "input_ids must be a tensor of token ids, such as tokenizer(text, return_tensors='pt').input_ids"
        )
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids must have the shape (batch, tokens), got {tuple(input_ids.shape)}")
    digest = hashlib.sha256(str(tuple(input_ids.shape)).encode())
    digest.update(as_bytes(input_ids.long()))
    return digest.hexdigest()


def plan_piece(plan: Plan) -> torch.Tensor:
    """Return a plan as compressed JSON, uint8."""
    stored = zlib.compress(json.dumps(plan.to_dict(), separators=(",", ":")).encode(), 9)
    return torch.frombuffer(bytearray(stored), dtype=torch.uint8)


def _schedule(contents: dict[str, Any]) -> str | None:
    described = contents.get("schedule")
    return None if described is None else f"{described['scheduler']}: {Ceiling(**described['ceiling'])}"


def _plan(file: MappedFile) -> Plan | None:
    size = file.contents["plan"]
    if size is None:
        return None
    file.verify(PLAN)
    stored = bytes(as_bytes(file.tensor(PLAN, 0, torch.uint8, [size])))
    return Plan.from_dict(json.loads(zlib.decompressobj().decompress(stored, LARGEST_PLAN)))
