"""A press with its settings, as ``name@option=value``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml
from kvpress import BasePress

from evaluation.compressors import Compressor
from evaluation.presses.entry import Entry
from evaluation.presses.registry import PRESSES
from evaluation.presses.settings import set_ratio, with_settings
from evaluation.schema import FULL_CACHE
from pikvpress.presses.checks import checked_ratio


@dataclass(frozen=True)
class PressSpec:
    """A press as specified in a study.

    Parameters
    ----------
    name : str
        The name as given, including settings.
    entry : Entry
        Registry entry of the press.
    options : dict
        Settings of the press.
    """

    name: str
    entry: Entry
    options: dict[str, Any]

    @property
    def strategy(self) -> Compressor:
        """The strategy for running the press."""
        return self.entry.strategy

    @property
    def has_ratio(self) -> bool:
        """Whether the press is run at every ratio of a study, instead of once."""
        return self.entry.ratio_of is not None and self.name != FULL_CACHE

    def make(self, ratio: float | None) -> BasePress | None:
        """Return a new press at a ratio.

        Raises
        ------
        ValueError
            For settings that the press does not have or rejects.
        """
        try:
            required = {name: self.options[name] for name in self.entry.required}
            others = {name: value for name, value in self.options.items() if name not in required}
            press = self.entry.make(**required)
            if press is None:
                if others:
                    raise ValueError(f"{self.name.partition('@')[0]} has no settings")
                return None
            press = with_settings(press, others, self.name)
            if self.entry.ratio_of is not None:
                set_ratio(press, self.entry.ratio_of.attribute, checked_ratio(ratio))
        except (AssertionError, TypeError, ValueError) as error:
            raise ValueError(f"press {self.name!r} cannot be created: {error or 'setting out of range'}") from error
        return press


def parse_press(name: str) -> PressSpec:
    """Parse a name such as ``snapkv`` or ``moe_router@router_type=adaptive@top_k=2``.

    Values are parsed as YAML: numbers, true, text, [lists], {mappings}. If a wrapper does not have a setting, it is
    applied to the press inside.

    Raises
    ------
    ValueError
        For an unknown press or setting (the message suggests similar names), or a value that the press rejects.
    """
    base, *settings = re.split(r"@(?![^\[{]*[\]}])", name)  # an @ inside brackets belongs to a value
    entry = PRESSES[base]
    options: dict[str, Any] = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key:
            raise ValueError(f"{setting!r} in {name!r} is not a setting: write {base}@option=value")
        if entry.ratio_of is not None and key == entry.ratio_of.attribute:
            raise ValueError(f"{key} in {name!r} is set by --ratio: use that option")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"the value of {key!r} in {name!r} cannot be parsed: {error}") from error
    for setting in entry.required:
        if setting not in options:
            raise ValueError(f"{base} needs a setting: write {base}@{setting}=...")
    spec = PressSpec(name, entry, options)
    spec.make(0.5 if spec.has_ratio else None)
    return spec
