"""A pytest plugin for environments without kvpress: whatever needs it skips the test that uses it.

Tests of caches import presses of kvpress and of pikvpress, many of them for some of their tests only. Here these names
are there, and can be created, as for parameters of tests; the test that puts one to use is skipped.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

import pikvpress
from pikvpress import kvpress_at_hand

PARTS = ("calibration", "experts", "layerwise", "presses", "refit", "routing")


class _StandInMeta(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return pytest.skip("needs kvpress", allow_module_level=True)


class StandIn(metaclass=_StandInMeta):
    """A press, or anything else that needs kvpress."""

    def __init__(self, *args: Any, **settings: Any):
        pass

    def __call__(self, *args: Any, **settings: Any) -> Any:
        """Skip the test."""
        pytest.skip("needs kvpress", allow_module_level=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return pytest.skip("needs kvpress", allow_module_level=True)


def stand_in(name: str) -> Any:
    """Return a class, or a function that skips, whichever has such a name."""
    return type(name, (StandIn,), {}) if name[0].isupper() else StandIn()


class StandInModule(ModuleType):
    """A module with whatever is imported from it."""

    __path__: list[str] = []  # noqa: RUF012  # the import system asks for it as it is

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(name)


class Finder:
    """Finds modules inside stand-ins."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return how a module is imported, if it lies in a part that needs kvpress."""
        parts = ("kvpress", *(f"pikvpress.{part}" for part in PARTS))
        if not any(name == part or name.startswith(f"{part}.") for part in parts):
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> ModuleType:
        """Return the module."""
        return StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing."""


if kvpress_at_hand.kvpress is None:
    sys.meta_path.insert(0, Finder())
    for missing in pikvpress._MISSING:
        setattr(pikvpress, missing, stand_in(missing))
