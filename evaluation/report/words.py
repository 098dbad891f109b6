"""Texts for both files: what was run, how to read the report, and its limits."""

from __future__ import annotations

from typing import Any

from evaluation.report.statistics import RESAMPLES
from evaluation.report.summary import Summary

RATIO = "Ratio = share of tokens removed."
DRAWN = (
    "`python -m evaluation report` with this folder writes `report.html`, which shows all ratios, `report.csv`, which "
    "has every number, and these figures, each as `-light.png` and `-dark.png`:"
)


def facts(summary: Summary) -> list[tuple[str, str]]:
    """Return names and values that describe the run."""
    said = summary.study.facts
    ratios = sorted({ratio for group in summary.groups for ratio in summary.ratios(group)})
    return [
        ("model", _text(said["model"])),
        ("benchmarks", "; ".join(f"{group.title} ({group.samples} samples)" for group in summary.groups)),
        ("presses", ", ".join(map(_named, summary.presses, map(summary.label, summary.presses)))),
        ("compression ratios", ", ".join(f"{ratio:g}" for ratio in ratios)),
        ("question", "seen during compression" if said["query_aware"] else "not seen during compression"),
        ("seed", _text(said["seed"])),
        ("versions", _text(said["versions"])),
        ("machine", _text(said["machine"])),
        ("date", _text(said["date"])),
        ("commit", _text(said["commit"])),
        ("command", _text(said["command"])),
    ]


def reading(summary: Summary) -> list[str]:
    """Return how to read the report."""
    lines = [
        f"{RATIO} Tables mark presses whose ratio counts something else.",
        f"Intervals are 95 % bootstrap intervals: {RESAMPLES:,} resamples of samples, drawn within each task (tasks "
        "with one sample are merged), with the same draws for every press.",
        "Bold marks the best mean of a column, or all of them if several tie. Where intervals overlap, look at the "
        "differences instead: they compare two presses on the same samples.",
        "“Better” and “worse” mean that the interval of the difference from the best other press excludes zero. "
        "That other press was chosen on the same samples, without correction for multiple comparisons.",
        "Bytes held is the memory that keys and values actually take after compression, in % of the full cache.",
    ]
    if any(not press.unit for press in summary.study.presses):
        lines.append(
            "A press that works by a threshold or a size instead of a ratio is shown at the share of tokens "
            "that it removed."
        )
    if summary.masked:
        lines.append(
            "A masked press hides keys but keeps them in memory: its ratio saves no bytes, so it cannot be compared "
            "directly with presses that drop them. Its marks are hollow."
        )
    return lines


def limits(summary: Summary) -> list[str]:
    """Return the limits of the results."""
    sizes = [group.samples for group in summary.groups]
    count = f"{sizes[0]}" if len(set(sizes)) == 1 else f"{min(sizes)} to {max(sizes)}"
    return [
        f"One model, {_text(summary.study.facts['model'])}, one seed, and {count} samples per benchmark and length.",
        "Intervals are over samples only: another model, prompt, seed or machine may give other results.",
        "Times are valid only for this machine and for prompts of these lengths.",
    ]


def _named(press: str, label: str) -> str:
    return press if label == press else f"{label} ({press})"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    if isinstance(value, list):
        return "; ".join(map(_text, value))
    return str(value)
