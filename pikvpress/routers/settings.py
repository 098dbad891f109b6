"""The settings of routers, with validation."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from pikvpress.support.registry import unknown

BALANCE_MODES = ("entropy", "variance", "gini")


@dataclass(frozen=True)
class RouterSettings:
    """Settings of a router; `MoERouterPress` describes each of them.

    Raises
    ------
    ValueError, TypeError
        For a value out of range or of the wrong type; the message names the setting and the allowed values.
    """

    top_k: int = 4
    temperature: float = 1.0
    cache_aware: bool = True
    importance_threshold: float = 0.8
    adaptive_top_k: bool = False
    capacity_factor: float = 1.0
    num_groups: int = 2
    group_top_k: int = 1
    dropout: float = 0.0
    aux_loss_weight: float = 0.01
    balance_mode: str = "entropy"
    balance_coefficient: float = 0.01

    def __post_init__(self) -> None:
        _whole("top_k", self.top_k)
        _whole("num_groups", self.num_groups)
        _whole("group_top_k", self.group_top_k)
        _flag("cache_aware", self.cache_aware)
        _flag("adaptive_top_k", self.adaptive_top_k)
        _within("temperature", self.temperature, 0, math.inf, open_below=True)
        _within("importance_threshold", self.importance_threshold, 0, 1)
        _within("capacity_factor", self.capacity_factor, 1, math.inf)
        _within("dropout", self.dropout, 0, 1, open_above=True)
        _within("aux_loss_weight", self.aux_loss_weight, 0, math.inf)
        _within("balance_coefficient", self.balance_coefficient, 0, math.inf)
        if self.balance_mode not in BALANCE_MODES:
            raise ValueError(f"balance_mode must be one of {', '.join(BALANCE_MODES)}, got {self.balance_mode!r}")
        if self.group_top_k > self.num_groups:
            raise ValueError(
                f"group_top_k={self.group_top_k} chooses more groups than num_groups={self.num_groups}: lower it"
            )


def read_settings(written: Iterable[str]) -> RouterSettings:
    """Parse settings of the form NAME=VALUE, as given on a command line.

    Raises
    ------
    ValueError, TypeError
        For another form, an unknown name, or a value that `RouterSettings` rejects.
    """
    names, told = [field.name for field in fields(RouterSettings)], dict[str, Any]()
    for text in written:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"a setting has the form NAME=VALUE, such as dropout=0.1, got {text!r}")
        if name not in names:
            raise ValueError(unknown("setting", name, names))
        try:
            told[name] = json.loads(value.lower())
        except json.JSONDecodeError:
            told[name] = value
    return RouterSettings(**told)


def _whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def _within(
    name: str, value: object, low: float, high: float, open_below: bool = False, open_above: bool = False
) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    above = number > low if open_below else number >= low
    below = number < high if open_above or math.isinf(high) else number <= high
    if not (above and below):
        brackets = ("(" if open_below else "[") + f"{low}, {high}" + (")" if open_above or math.isinf(high) else "]")
        raise ValueError(f"{name} must be in {brackets}, got {value}")
