"""What is found out, in order of worth, and how long each part may take."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.gpu_check.setting import Setting


@dataclass(frozen=True)
class Section:
    """A part of the check, which runs in a process of its own.

    Parameters
    ----------
    name : str
        Its name.
    function : str
        Module in this folder and function, which is given a `Setting`.
    seconds : int
        After which its process is ended; what is left of it is left to later sections.
    whole : bool
        Whether it needs the whole package, with kvpress and transformers, and not only its kernels.
    """

    name: str
    function: str
    seconds: int
    whole: bool = False

    def run(self, setting: Setting) -> None:
        """Run it in this process."""
        module, _, name = self.function.partition(".")
        function: Callable[[Setting], None] = getattr(importlib.import_module(f"benchmarks.gpu_check.{module}"), name)
        function(setting)


SECTIONS = (
    Section("correctness", "correctness.every_kernel", 180),
    Section("ragged attention", "timings.ragged_attention", 60),
    Section("window scores", "timings.window_scores", 30),
    Section("press", "model.press", 75, whole=True),
    Section("decoding at 32k", "model.decoding_32k", 75, whole=True),
    Section("decoding at 128k", "model.decoding_128k", 110, whole=True),
    Section("column sums", "timings.column_sums", 30),
    Section("the rest", "timings.the_rest", 120),
    Section("huge batches", "correctness.huge_batches", 60),
)


def named(name: str) -> Section:
    """Return the section of a name.

    Raises
    ------
    ValueError
        If there is none.
    """
    for section in SECTIONS:
        if section.name == name:
            return section
    raise ValueError(f"there is no section {name!r}; there are {', '.join(one.name for one in SECTIONS)}")
