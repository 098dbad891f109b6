"""How continuations are read: results of one folder must not mix ways of reading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.study import Study


def reads_of(study: Study) -> dict[str, dict[str, dict[str, int]]]:
    """Return how continuations are read, by benchmark and length, for ``study.yaml``."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for chosen in study.benchmarks:
        for length in chosen.lengths if chosen.benchmark.goes_on else ():
            reads = {"continued": chosen.continued or 3 * length // 4, "at_once": chosen.at_once}
            found.setdefault(chosen.name, {})[str(length)] = reads
    return found


def check_reads(folder: Path, old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> None:
    """Raise a ``ValueError`` if continuations of the same length were read in another way.

    Parameters
    ----------
    folder : Path
        The folder of the results.
    old, new : sequence of dict
        Benchmarks as ``study.yaml`` describes them, before this study and in it.
    """
    before = {entry["name"]: entry.get("reads", {}) for entry in old}
    for entry in new:
        for length, reads in entry.get("reads", {}).items():
            known = before.get(entry["name"], {}).get(length, reads)
            if known != reads:
                raise ValueError(
                    f"{folder} holds results with {known} at length {length}, this study has {reads}: choose another "
                    "--output"
                )
