"""The schedule of a cache as a section of its file."""

from __future__ import annotations

import json
import zlib
from dataclasses import fields
from typing import Any

import torch

from pikvpress.cache.angles import Angles
from pikvpress.cache.ceiling import KINDS, Ceiling
from pikvpress.cache.history import History, Step
from pikvpress.cache.saving.file import MappedFile, Pieces
from pikvpress.cache.saving.tensors import described_tensors, restored_tensors
from pikvpress.cache.schedule import Schedule
from pikvpress.cache.scheduler import SCHEDULERS, Scheduler
from pikvpress.model_digest import as_bytes
from pikvpress.models import Attention
from pikvpress.ranks import shard_of

SCHEDULE = "schedule"
LARGEST_HISTORY = 100_000_000
PARTS = ("scheduler", "ceiling", "history", "angles", "shard")
NUMBERS = [field.name for field in fields(Schedule) if field.name not in PARTS]  # and mappings of numbers


def described_schedule(schedule: Schedule) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Return the description of a schedule and the pieces of its section.

    Raises
    ------
    ValueError
        If the scheduler cannot be found again by its name, or has settings that files do not hold.
    """
    settings, tensors = _settings(schedule.scheduler)
    angles = {"cos": schedule.angles.cos, "sin": schedule.angles.sin}
    tensors |= {f"angles.{name}": part for name, part in angles.items() if part is not None}
    described, pieces = described_tensors(tensors)
    steps = json.dumps(schedule.history.to_dict()["steps"], separators=(",", ":")).encode()
    history = torch.frombuffer(bytearray(zlib.compress(steps, 9)), dtype=torch.uint8)
    return {
        "scheduler": schedule.scheduler.name,
        "settings": settings,
        "tensors": described,
        "history": len(history),
        "ceiling": {kind: getattr(schedule.ceiling, kind) for kind in KINDS},
        "first_angle": schedule.angles.first,
        "numbers": {name: _listed(getattr(schedule, name)) for name in NUMBERS},
    }, [*pieces, history]


def _listed(value: Any) -> Any:
    """Return a mapping as a list of pairs, since keys of JSON are strings; anything else unchanged."""
    return [[*pair] for pair in value.items()] if isinstance(value, dict) else value


def _settings(scheduler: Scheduler) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the settings of a scheduler, and those that are tensors."""
    name = getattr(scheduler, "name", type(scheduler).__name__)
    if SCHEDULERS.get(name) is not type(scheduler):
        raise ValueError(
            f"scheduler {name!r} cannot be saved, because it cannot be found by its name: add its class to "
            "pikvpress.schedulers.SCHEDULERS"
        )
    try:
        saved = scheduler.saved()
        tensors = {f"settings.{key}": value for key, value in saved.items() if isinstance(value, torch.Tensor)}
        settings = {key: value for key, value in saved.items() if not isinstance(value, torch.Tensor)}
        json.dumps(settings)
    except TypeError as error:
        raise ValueError(
            f"scheduler {name!r} cannot be saved: {error}; its `saved` must return numbers, strings, lists and tensors"
        ) from error
    return settings, tensors


def restored_schedule(file: MappedFile, first: Attention) -> Schedule | None:
    """Return the schedule in a file, after its section was verified, or None; for the model of a first layer."""
    described = file.contents.get(SCHEDULE)
    if described is None:
        return None
    file.verify(SCHEDULE)
    pieces = Pieces(file, SCHEDULE)
    tensors = restored_tensors(described["tensors"], pieces)
    history = pieces.take(torch.uint8, described["history"])
    pieces.finish()
    steps = json.loads(zlib.decompressobj().decompress(bytes(as_bytes(history)), LARGEST_HISTORY))
    given = {key.removeprefix("settings."): part for key, part in tensors.items() if key.startswith("settings.")}
    device = next(first.parameters()).device
    cos, sin = (tensors[name].to(device) if name in tensors else None for name in ("angles.cos", "angles.sin"))
    listed = [(name, one) for name, one in described["numbers"].items() if name in NUMBERS]
    numbers: dict[str, Any] = {name: dict(one) if isinstance(one, list) else one for name, one in listed}
    shard = shard_of(first)
    return Schedule(
        SCHEDULERS[described["scheduler"]].restored(described["settings"] | given).for_shard(shard),
        Ceiling(**described["ceiling"]),
        history=History([_step(step) for step in steps]),
        angles=Angles(int(described["first_angle"]), cos, sin),
        shard=shard,
        **numbers,
    )


def _step(step: dict[str, Any]) -> Step:
    return Step(**step | {name: tuple(step[name]) for name in ("held", "dropped")})
