"""The report: a table for the terminal, and a page of Markdown."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from rich.table import Table

from scripts.kvpress_suite.classify import OURS, Kind, Verdict
from scripts.kvpress_suite.passes import PASSES

SHOWN = 3  # number of tests listed per reason; all of those that we must fix

HOW = """\
The suite comes from a checkout, the package under test is the installed one. Each pass runs in its own process: pytest
with our plugin (`scripts/kvpress_suite/`). Models and tokenizers that the suite downloads from a hub are replaced:
models for unit tests by a random Llama with the same layers, KV heads and head size, and two query heads per KV head;
all others by SmolLM2-135M-Instruct. Downloaded filters and statistics are replaced by random ones. The random seed is
the same in every test. A sample of the last hidden states of every forward is recorded. Most tests end after a press
has compressed a cache, without reading it; the plugin therefore reads every cache with three tokens of its own (two
together, then one) and records those hidden states as well. For these reads, kvpress's fake keys are scaled up: with
several queries, a fake key may be nearly orthogonal to one of them, so that a masked entry still receives a little
attention. If a test passes in two passes, or fails in the same way in both, but its numbers differ by more than
{tolerance:g} of the largest one (float32), this is a silent difference; the table shows the largest deviation of all
others."""


def table(verdicts: Mapping[str, Sequence[Verdict]]) -> Table:
    """Return the number of tests per pass and result, as a table for `rich`."""
    shown = Table("pass", *(kind.value for kind in Kind), "largest deviation", title="kvpress's own tests")
    for row in _rows(verdicts):
        shown.add_row(*row)
    return shown


def _rows(verdicts: Mapping[str, Sequence[Verdict]]) -> list[list[str]]:
    rows = []
    for name, found in verdicts.items():
        counts = Counter(verdict.kind for verdict in found)
        largest = max((verdict.deviation for verdict in found if verdict.kind not in OURS), default=0.0)
        deviation = f"{largest:.0e}" if PASSES[name].against else "-"
        rows.append([name, *(str(counts[kind]) for kind in Kind), deviation])
    return rows


def markdown(
    verdicts: Mapping[str, Sequence[Verdict]], facts: Mapping[str, str], unreadable: Mapping[str, str], tolerance: float
) -> str:
    """Return the report as a page.

    Parameters
    ----------
    verdicts : mapping of str to sequence of Verdict
        Results by pass.
    facts : mapping of str to str
        Versions, the date, the command.
    unreadable : mapping of str to str
        Tests that leave a DynamicCache that kvpress and transformers cannot read, and the error.
    tolerance : float
        Tolerance in float32.
    """
    lines = ["# kvpress's own tests, with pikvpress", ""]
    lines += [f"- {name}: {fact}" for name, fact in facts.items()]
    lines += ["", HOW.format(tolerance=tolerance), ""]
    lines += [f"- `{name}`: {PASSES[name].what}{_against(name)}" for name in verdicts]
    heads = ["pass", *(kind.value for kind in Kind), "largest deviation"]
    lines += ["", _row(heads), _row(["---"] + ["---:"] * (len(heads) - 1)), *map(_row, _rows(verdicts)), ""]
    for kind in (*OURS, Kind.REFUSED, Kind.BY_DESIGN, Kind.ALIKE, Kind.SKIPPED):
        lines += _section(kind, verdicts)
    if unreadable:
        lines += ["## Caches that cannot be read without pikvpress", "", _UNREADABLE, ""]
        lines += [f"- `{_short(test)}`: {error}" for test, error in unreadable.items()] + [""]
    return "\n".join(lines)


_UNREADABLE = "These tests pass without pikvpress, but the next token fails: what they leave is not compared."


def _against(name: str) -> str:
    against = PASSES[name].against
    return f"; numbers are compared with `{against}`" if against else ""


def _section(kind: Kind, verdicts: Mapping[str, Sequence[Verdict]]) -> list[str]:
    """Return the reasons of a kind, with their tests and passes."""
    by_reason: dict[str, dict[str, list[Verdict]]] = defaultdict(lambda: defaultdict(list))
    for name, found in verdicts.items():
        for verdict in found:
            if verdict.kind is kind:
                by_reason[_joined(verdict.reason)][name].append(verdict)
    lines = [f"## {kind.value[0].upper()}{kind.value[1:]}", ""]
    if not by_reason:
        return [*lines, "None.", ""]
    for reason, passes in by_reason.items():
        where = ", ".join(f"{len(found)} in `{name}`" for name, found in passes.items())
        tests = list(dict.fromkeys(verdict.test for found in passes.values() for verdict in found))
        shown = tests if kind in OURS else tests[:SHOWN]
        more = f" and {len(tests) - len(shown)} more" if len(tests) > len(shown) else ""
        largest = max(verdict.deviation for found in passes.values() for verdict in found)
        deviation = f" (largest deviation {largest:.1e})" if kind is Kind.DIFFERS else ""
        lines.append(
            f"- {reason or 'no reason given'}{deviation}: {where}: {', '.join(f'`{_short(t)}`' for t in shown)}{more}"
        )
    return [*lines, ""]


def _joined(reason: str) -> str:
    """Return a reason on one line, without numbers that differ between tests, for grouping."""
    return re.sub(r"\b0x[0-9a-f]+", "0x…", re.sub(r"\s+", " ", reason)).replace("|", "\\|")


def _short(test: str) -> str:
    return test.removeprefix("tests/")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
