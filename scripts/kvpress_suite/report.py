"""The report: a table for the terminal, and a page of Markdown."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from rich.table import Table

from scripts.kvpress_suite.classify import OURS, Kind, Verdict
from scripts.kvpress_suite.passes import PASSES

SHOWN = 3  # tests named for a reason; of what is ours to mend every one

HOW = """\
The suite is that of a checkout, the package under test the one that is installed. Each pass is a process of its own:
pytest with a plugin of ours (`scripts/kvpress_suite/`). Models and tokenizers that the suite takes from a hub are
replaced: those for unit tests by a random Llama of the same layers, KV heads and head size, with two query heads for
each KV head; all others by SmolLM2-135M-Instruct; downloaded filters and statistics by random ones. Random numbers
begin alike in every test. Of every forward a sample of the last hidden states is written down. Most tests end once a
press has done its work, and nobody reads what is left; so the plugin reads every cache with three tokens of its own
(two together, then one) and writes those hidden states down, too. Meanwhile kvpress's fake keys are scaled up: for
several queries one may be found that lies nearly across one of them, and what it masks is then still attended to a
little. A test that passes in two passes, or fails alike in both, but whose numbers differ by more than {tolerance:g} of
the largest one (float32) is a silent difference; the largest deviation of all others is in the table."""


def table(verdicts: Mapping[str, Sequence[Verdict]]) -> Table:
    """Return how many tests of each pass went how, for `rich` to print."""
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
        By pass.
    facts : mapping of str to str
        Versions, the date, the command.
    unreadable : mapping of str to str
        Tests that leave a DynamicCache which kvpress and transformers cannot read, and the error.
    tolerance : float
        In float32.
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
    """Return the reasons of a kind, the tests that they stand for, and in which passes."""
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
    """Return a reason on one line, with numbers that differ from test to test left out, to group by it."""
    return re.sub(r"\b0x[0-9a-f]+", "0x…", re.sub(r"\s+", " ", reason)).replace("|", "\\|")


def _short(test: str) -> str:
    return test.removeprefix("tests/")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
