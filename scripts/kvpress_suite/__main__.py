"""The command: runs the passes, prints a table, writes the report, and fails if there is something for us to fix."""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from scripts.kvpress_suite.checkout import Checkout, find_checkout
from scripts.kvpress_suite.classify import OURS, Verdict, classify
from scripts.kvpress_suite.compare import TOLERANCE
from scripts.kvpress_suite.passes import PASSES
from scripts.kvpress_suite.records import Record
from scripts.kvpress_suite.report import markdown, table
from scripts.kvpress_suite.runner import ROOT, run_pass

REPORT = ROOT / "docs" / "kvpress-suite.md"


def main(arguments: list[str] | None = None) -> int:
    """Run the suite in every pass, and return the exit status: 1 if there are failures or differences of ours."""
    parser = argparse.ArgumentParser(prog="python -m scripts.kvpress_suite", description=__doc__)
    parser.add_argument("checkout", type=Path, nargs="?", help="a checkout of kvpress")
    parser.add_argument("--report", type=Path, default=REPORT, help="path of the report")
    parser.add_argument("--records", type=Path, help="a folder for the records of tests; by default none")
    parser.add_argument("--select", help="only tests whose names match, as in pytest -k")
    given = parser.parse_args(arguments)
    try:
        checkout = find_checkout(given.checkout)
    except ValueError as refusal:
        print(refusal, file=sys.stderr)
        return 2
    console = Console(width=160)
    with tempfile.TemporaryDirectory() as folder:
        records = _run(checkout, given.records or Path(folder), given.select, console)
    verdicts = {name: _classified(name, records) for name in PASSES}
    console.print(table(verdicts))
    mend = [(name, verdict) for name, found in verdicts.items() for verdict in found if verdict.kind in OURS]
    for name, verdict in mend:
        console.print(f"{name}: {verdict.kind.value}: {verdict.test}: {verdict.reason}", markup=False, soft_wrap=True)
    given.report.parent.mkdir(parents=True, exist_ok=True)
    unread = {
        test: record.unread for test, record in records["plain"].items() if record.unread and record.outcome == "passed"
    }
    unreadable = {test: f"{failure.error}: {failure.message}" for test, failure in unread.items()}
    page = markdown(verdicts, _facts(checkout, given.select), unreadable, TOLERANCE["float32"])
    given.report.write_text(page, encoding="utf-8")
    return 1 if mend else 0


def _run(checkout: Checkout, folder: Path, select: str | None, console: Console) -> dict[str, dict[str, Record]]:
    folder.mkdir(parents=True, exist_ok=True)
    selection = ["-k", select] if select else []
    records = {}
    for name, which in PASSES.items():
        console.print(f"{name}: {which.what} ...", markup=False)
        records[name] = run_pass(which, checkout, folder, selection)
    return records


def _classified(name: str, records: dict[str, dict[str, Record]]) -> list[Verdict]:
    which = PASSES[name]
    others = records[which.against] if which.against else {}
    return [
        classify(record, which, records["plain"].get(test), others.get(test)) for test, record in records[name].items()
    ]


def _facts(checkout: Checkout, select: str | None) -> dict[str, str]:
    versions = {name: version(name) for name in ("pikvpress", "kvpress", "transformers", "torch")}
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    command = (
        "make test-kvpress KVPRESS=..." if not select else f"python -m scripts.kvpress_suite ... --select {select!r}"
    )
    return {
        "Command": f"`{command}`",
        "Date": datetime.now(timezone.utc).date().isoformat(),
        "Tests": f"those of kvpress {checkout.version}",
        "Installed": packages,
    }


if __name__ == "__main__":
    sys.exit(main())
