"""What was measured beside what was aimed for; what was not reached, or not measured, is called that."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from benchmarks.gpu_check.names import EIGHTH, FULLS, PRESSES

Row = dict[str, str]
COPY = 0.75  # of the speed of a copy: attention over a compressed cache
SCORES = 5.0  # times SnapKV's speed: window scores
ADDED = 0.05  # of a prefill: a press
DECODING = 4.0  # times a full cache's speed: decoding from an eighth of the bytes
STORED = {"exact": (16,), "int4": (4,), "rotated": (21, 22, 23, 24)}  # `key_bits` in shapes
CONTEXTS = 2  # of which decoding is timed


@dataclass(frozen=True)
class Line:
    """A bar, what was measured, and whether that is enough; None where that cannot be said."""

    what: str
    bar: str
    measured: str = "not measured"
    reached: bool | None = None

    @property
    def verdict(self) -> str:
        """What is said about it."""
        if self.reached is None:
            return ("not measured" if self.measured == "not measured" else "not all measured") if self.bar else "-"
        return "reached" if self.reached else "NOT REACHED"


def lines(output: Path) -> list[Line]:
    """Return all bars, by the tables in a folder, some of which may be missing or end early."""
    kernels = _read(output / "kernels.csv")
    prefills, decoded = _read(output / "prefill.csv"), _read(output / "decoding.csv")
    return [
        _correct(_read(output / "correctness.csv"), _read(output / "sections.csv")),
        *_attention(kernels),
        *_scores(kernels),
        *_prefill(prefills),
        *_decoding(decoded),
    ]


def table(output: Path, title: str) -> Table:
    """Return the bars as a table."""
    shown = Table(box=SIMPLE, title=title)
    for heading in ("what", "bar", "measured", "verdict"):
        shown.add_column(heading)
    for line in lines(output):
        shown.add_row(line.what, line.bar, line.measured, line.verdict)
    return shown


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _correct(rows: Sequence[Row], sections: Sequence[Row]) -> Line:
    """Return a line for all checked cases; if checking ended early, those that are correct are not all."""
    what, bar = "kernels that agree with their references", "all"
    if not rows:
        return Line(what, bar)
    correct = sum(row["result"] == "correct" for row in rows)
    others = sorted({row["operation"] for row in rows if row["result"] != "correct"})
    early = any(row["section"] == "correctness" and row["ended"] != "done" for row in sections)
    said = f"{correct} of {len(rows)} cases" + (f"; not: {', '.join(others)}" if others else "")
    return Line(what, bar, said + ("; ended early" if early else ""), False if others else None if early else True)


def _attention(rows: Sequence[Row]) -> Iterator[Line]:
    """Yield a line for each way of storing, at the largest number of entries that was timed."""
    mine = [row for row in rows if row["operation"] == "attend" and row["way"] in ("kernel", "wrong")]
    for stored, bits in STORED.items():
        of_it = [row for row in mine if _size(row, "key_bits") in bits]
        entries = max((_size(row, "entries") for row in of_it), default=0)
        if not of_it:
            yield Line(f"ragged attention, {stored}", f"{COPY:.0%} of a copy's speed")
        for row in of_it:
            kept = f"{_size(row, 'least')} to {_size(row, 'most')} % of {entries:,} entries"
            if _size(row, "entries") == entries:
                yield _share(f"ragged attention, {stored}, {kept}", row)


def _share(what: str, row: Row) -> Line:
    bar = f"{COPY:.0%} of a copy's speed"
    if not row.get("share_of_copy"):
        return Line(what, bar, row.get("failed") or "wrong result, not timed", False)
    share = float(row["share_of_copy"])
    return Line(what, bar, f"{share:.0%} ({float(row['median_ms']):.3g} ms)", share >= COPY)


def _scores(rows: Sequence[Row]) -> Iterator[Line]:
    mine = [row for row in rows if row["operation"] == "received_attention" and row.get("median_ms")]
    times = {(_size(row, "tokens"), row["way"]): float(row["median_ms"]) for row in mine}
    both = [tokens for tokens, way in times if way == "kernel" and (tokens, "kvpress SnapKV") in times]
    if not both:
        yield Line("window scores", f"{SCORES:g} times SnapKV's speed")
    for tokens in both:
        factor = times[tokens, "kvpress SnapKV"] / times[tokens, "kernel"]
        what = f"window scores, {tokens:,} keys"
        yield Line(what, f"{SCORES:g} times SnapKV's speed", f"{factor:.1f} times", factor >= SCORES)


def _prefill(rows: Sequence[Row]) -> Iterator[Line]:
    taken = {(row["contender"], row["round"]): float(row["prefill_s"]) for row in rows if row["prefill_s"]}
    bar = f"at most {ADDED:.0%} of a prefill"
    tokens = int(rows[0]["tokens"]) if rows else 0
    for press in PRESSES:
        added = [
            seconds / taken["full cache", round_] - 1
            for (name, round_), seconds in taken.items()
            if name == press and round_ != "0" and ("full cache", round_) in taken
        ]
        if added:
            middle = statistics.median(added)
            yield Line(f"{press}, {tokens:,} tokens", bar, f"adds {middle:.1%}, {len(added)} rounds", middle <= ADDED)
        else:
            yield Line(press, bar)


def _decoding(rows: Sequence[Row]) -> Iterator[Line]:
    timed = [row for row in rows if row["tokens_per_s"]]
    lengths = sorted({int(row["tokens"]) for row in timed})
    for tokens in lengths:
        yield from _at_a_length(f"decoding after {tokens:,} tokens", [r for r in timed if int(r["tokens"]) == tokens])
    for _ in range(CONTEXTS - len(lengths)):
        yield Line("decoding from 1/8 of the bytes", f"{DECODING:g} times a full cache's speed")


def _at_a_length(what: str, rows: Sequence[Row]) -> Iterator[Line]:
    """Yield lines beside the faster of the full caches: in the same batch, and each in its best."""
    speeds = {(row["contender"], int(row["batch"])): float(row["tokens_per_s"]) for row in rows}
    full: dict[int, float] = {}
    for (name, batch), speed in speeds.items():
        if name in FULLS:
            full[batch] = max(speed, full.get(batch, 0.0))
    ours = {batch: speed for (name, batch), speed in speeds.items() if name == EIGHTH}
    bar = f"{DECODING:g} times a full cache's speed"
    common = full.keys() & ours.keys()
    if not common:
        yield Line(f"{what}, 1/8 of the bytes", bar)
        return
    batch = max(common)
    factor = ours[batch] / full[batch]
    yield Line(f"{what}, 1/8 of the bytes, batch {batch}", bar, f"{factor:.2f} times", factor >= DECODING)
    best, theirs = max(ours, key=lambda b: ours[b]), max(full, key=lambda b: full[b])
    factor = ours[best] / full[theirs]
    said = f"{factor:.2f} times ({ours[best]:.0f} tokens/s in a batch of {best}, {full[theirs]:.0f} of {theirs})"
    yield Line(f"{what}, each in its best batch", bar, said, factor >= DECODING)
    yield Line(f"{what}, largest batch", "", f"{max(ours)}, full cache {max(full)}")


def _size(row: Row, name: str) -> int:
    sizes = dict(part.split("=") for part in row["shape"].split())
    return int(sizes.get(name, 0))
