"""Presses by name, with settings as ``name@option=value``."""

from __future__ import annotations

from evaluation.presses.entry import Entry
from evaluation.presses.registry import PRESSES
from evaluation.presses.spec import PressSpec, parse_press
from evaluation.schema import FULL_CACHE

__all__ = ["FULL_CACHE", "PRESSES", "Entry", "PressSpec", "parse_press"]
