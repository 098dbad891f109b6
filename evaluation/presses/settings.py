"""Settings by name, for a press or the presses inside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import kvpress as kv
from kvpress import BasePress

from pikvpress import PerLayerPress
from pikvpress.support.registry import check_name


def with_settings(press: BasePress, settings: Mapping[str, Any], name: str) -> BasePress:
    """Return a press with changed settings, each applied to the outermost press that has it.

    Raises
    ------
    ValueError
        For a setting that none of them has; the message suggests similar names.
    """
    left = dict(settings)
    press = _replaced(press, left)
    if left:
        known = sorted({field for inner in _presses_in(press) for field in _settings_of(inner)})
        for setting in left:
            check_name(setting, known, f"setting of {name}")
    return press


def set_ratio(press: BasePress, name: str, ratio: float) -> None:
    """Set the ratio attribute with this name on a press, or on the presses that it consists of."""
    if isinstance(press, kv.ComposedPress):
        set_ratio(press.presses[0], name, ratio)  # the press combined with ThinK, which has its own setting
    elif isinstance(press, PerLayerPress):
        for inner in press.presses.values():
            set_ratio(inner, name, ratio)
    else:
        setattr(press, name, ratio)


def _replaced(press: BasePress, options: dict[str, Any]) -> BasePress:
    """Return the press with its options, which are removed from ``options``; also applied to inner presses."""
    mine = {name: options.pop(name) for name in _settings_of(press) if name in options}
    for item in fields(press):  # type: ignore[arg-type]
        if not item.init:
            continue
        value = getattr(press, item.name)
        if isinstance(value, BasePress):
            mine[item.name] = _replaced(value, options)
        elif isinstance(value, list) and value and all(isinstance(inner, BasePress) for inner in value):
            mine[item.name] = [_replaced(inner, options) for inner in value]
    return replace(press, **mine) if mine else press  # type: ignore[type-var]


def _settings_of(press: BasePress) -> list[str]:
    if not is_dataclass(press):
        return []
    names = [item.name for item in fields(press) if item.init]
    return [name for name in names if not isinstance(getattr(press, name, None), BasePress) and name != "presses"]


def _presses_in(press: BasePress) -> Iterator[BasePress]:
    yield press
    for item in fields(press):  # type: ignore[arg-type]
        value = getattr(press, item.name, None) if item.init else None
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, BasePress):
                yield from _presses_in(inner)
