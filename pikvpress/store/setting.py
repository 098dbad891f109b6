"""What determines a stored context besides its tokens: the model, the press and the cache, as a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.cache import PiKVCache
from pikvpress.cache.saving.file import VERSION
from pikvpress.gates import gates_of
from pikvpress.kvpress_at_hand import is_press
from pikvpress.model_digest import ModelDigest, digest_of_bytes
from pikvpress.ranks import HeadShard

if TYPE_CHECKING:
    from kvpress import BasePress


class Setting:
    """What a model reads with.

    Parameters
    ----------
    model : PreTrainedModel
        The model that reads.
    press : BasePress, optional
        The press that compresses.

    Raises
    ------
    TypeError
        If one of them is something else.
    ValueError
        If the press has a setting that cannot be told apart from others.
    """

    def __init__(self, model: PreTrainedModel, press: BasePress | None):
        if press is not None and not is_press(press):
            raise TypeError(f"press must be a press of kvpress or pikvpress, got {type(press).__name__}")
        identity(press)
        self._model, self._press = model, press
        self._first = models.attention_layers(model)[0]
        self._gates = identity(gates_of(self._first))

    def of(self, cache: PiKVCache) -> str:
        """Return the SHA-256 of the setting with an empty cache, as model and press are now.

        Raises
        ------
        ValueError
            If the cache has a setting that cannot be told apart from others, or a scheduler that lacks something.
        """
        state = cache.state
        schedule = state.schedule
        told: Any = None
        if schedule is not None:
            scheduler = schedule.scheduler if schedule.met else schedule.scheduler.for_model(self._first)
            told = [identity(scheduler), identity(schedule.ceiling), schedule.window]
        parts = {
            "format": VERSION,
            "model": asdict(ModelDigest.of(self._model)),
            "attention": self._model.config._attn_implementation,
            "gates": self._gates,
            "press": identity(self._press),
            "codecs": identity(list(state.codecs)),
            "window": state.window,
            "schedule": told,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def identity(value: Any) -> Any:
    """Return JSON that is the same for settings that are the same in every bit, also in another process.

    Parameters
    ----------
    value : object
        Numbers, strings, tensors, modules, lists and mappings of these; dataclasses such as presses, codecs, schedulers
        and gates, of which the settings count that they are created with. A path to a file counts as its contents.

    Raises
    ------
    ValueError
        For anything else, such as a function.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str | Path):
        return _text(value)
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, HeadShard):
        return [value.total, value.first, value.count]
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), list(value.shape), digest_of_bytes(value).hex()]
    if isinstance(value, nn.Module):
        return [_name(value), identity(value.state_dict())]
    if isinstance(value, Mapping):
        return ["mapping", *([identity(key), identity(one)] for key, one in value.items())]
    if isinstance(value, list | tuple):
        return [identity(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(identity(one), sort_keys=True) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        return {"class": _name(value)} | {
            field.name: _field(value, field.name) for field in fields(value) if field.init and field.name != "about"
        }
    raise ValueError(
        f"what is stored has to be found by its settings, and it is not known what determines a {type(value).__name__}:"
        " make it a dataclass, or use numbers, strings and tensors"
    )


def _field(owner: Any, name: str) -> Any:
    try:
        return identity(getattr(owner, name))
    except ValueError as error:
        raise ValueError(f"{name} of {type(owner).__name__}: {error}") from error


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _text(value: str | Path) -> Any:
    path = Path(value).expanduser()
    if len(str(value)) < 4096 and "\0" not in str(value) and path.is_file():
        return ["file", hashlib.sha256(path.read_bytes()).hexdigest()]
    return str(value)
