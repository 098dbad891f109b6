"""Classification of the tests of a pass."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum

from scripts.kvpress_suite.compare import deviation
from scripts.kvpress_suite.known import not_here, reason_for
from scripts.kvpress_suite.passes import Pass
from scripts.kvpress_suite.records import Failure, Record


class Kind(Enum):
    """Result of a test."""

    PASSED = "passed"
    REFUSED = "refused"
    BY_DESIGN = "differs by design"
    ALIKE = "failed alike without pikvpress"
    SKIPPED = "skipped"
    FAILED = "failed"
    DIFFERS = "silent difference"


# Results that we must fix.
OURS = (Kind.FAILED, Kind.DIFFERS)
# Results for which the models have done the same work in the compared pass, so that numbers must agree as well.
COMPARED = (Kind.PASSED, Kind.BY_DESIGN, Kind.ALIKE)


@dataclass(frozen=True)
class Verdict:
    """Result of a test, and the reason."""

    test: str
    kind: Kind
    reason: str = ""
    deviation: float = 0.0


def classify(record: Record, which: Pass, plain: Record | None, other: Record | None) -> Verdict:
    """Classify a test.

    Parameters
    ----------
    record : Record
        Record of the test in a pass.
    which : Pass
        The pass.
    plain : Record, optional
        Record of the same test with kvpress alone.
    other : Record, optional
        Record of the same test in the compared pass.
    """
    if record.outcome == "skipped":
        return Verdict(record.test, Kind.SKIPPED, _line(record.failure))
    failed = record.outcome == "failed"
    verdict = _of_failed(record, which, plain) if failed else _of_passed(record, which, other)
    as_far = other is not None and (record.outcome == other.outcome or verdict.kind is Kind.BY_DESIGN)
    if verdict.kind not in COMPARED or other is None or not as_far:
        return verdict
    both_read = record.unread is None and other.unread is None
    far = deviation(*([one for one in each.forwards if both_read or not one.probe] for each in (record, other)))
    if not far.why:
        return replace(verdict, deviation=far.size)
    return Verdict(record.test, Kind.DIFFERS, f"forward {far.forward}: {far.why}", far.size)


def _of_failed(record: Record, which: Pass, plain: Record | None) -> Verdict:
    failure = record.failure
    assert failure is not None
    if which.name == "plain" or (plain is not None and plain.outcome == "failed" and _alike(failure, plain.failure)):
        return Verdict(record.test, Kind.ALIKE, not_here(record.test) or _line(failure))
    if failure.ours and failure.error == "ValueError":
        return Verdict(record.test, Kind.REFUSED, failure.message)
    if record.equivalent:
        return Verdict(record.test, Kind.BY_DESIGN, reason_for(record.test) or "")
    return Verdict(record.test, Kind.FAILED, _line(failure))


def _of_passed(record: Record, which: Pass, other: Record | None) -> Verdict:
    """Classify a test that passed: its remaining cache must be readable."""
    failure = record.unread
    there = None if other is None else other.unread
    if failure is None or which.name == "plain" or (there is not None and _alike(failure, there)):
        return Verdict(record.test, Kind.PASSED)
    if failure.ours and failure.error == "ValueError":
        return Verdict(record.test, Kind.REFUSED, f"when the cache is read: {failure.message}")
    return Verdict(record.test, Kind.FAILED, f"when the cache is read: {_line(failure)}")


def _alike(one: Failure, other: Failure | None) -> bool:
    """Return whether failures are the same except for numbers and texts of a model."""
    return other is not None and _bare(one) == _bare(other)


def _bare(failure: Failure) -> tuple[str, str, str]:
    first = failure.message.split("\n")[0]
    return failure.error, failure.where, re.sub(r"'[^']*'|[\d.]+", "", first)


def _line(failure: Failure | None) -> str:
    if failure is None:
        return ""
    return f"{failure.error}: {failure.message.splitlines()[0] if failure.message else ''} ({failure.where})"
