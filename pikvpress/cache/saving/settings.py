"""A press as JSON: its class and its settings, for people and for comparing, not for creating it again."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pikvpress.kvpress_at_hand import is_press

if TYPE_CHECKING:
    from kvpress import BasePress


def settings_of(press: BasePress) -> dict[str, Any]:
    """Return the class and the settings of a press, and of the presses inside it.

    Parameters
    ----------
    press : BasePress
        A press of kvpress or pikvpress.

    Returns
    -------
    dict
        ``press``, the name of its class, and ``settings``, which maps the names of its parameters to numbers, strings,
        lists, and the like. Of anything else, such as tensors and functions, there is the name of its class.

    Raises
    ------
    TypeError
        If it is not a press.
    """
    if not is_press(press):
        raise TypeError(f"press must be a press of kvpress or pikvpress, got {type(press).__name__}")
    names = [field.name for field in dataclasses.fields(press) if field.init] if dataclasses.is_dataclass(press) else []
    return {"press": type(press).__name__, "settings": {name: _plain(getattr(press, name)) for name in names}}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_press(value):
        return settings_of(value)
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    return type(value).__name__
