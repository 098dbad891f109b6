"""Simulate steps of decoding on 1 to 1,024 ranks: `python -m benchmarks.scaling`, a table and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.scaling.constants import MODELS, Cluster, Decoder, rate_of_codes
from benchmarks.scaling.heads import RULES
from benchmarks.scaling.picture import Chart, Line, draw
from benchmarks.scaling.simulation import Outcome, Setting, simulate
from evaluation.report.figures.canvas import to_png
from evaluation.report.theme import THEMES

RESULTS = Path(__file__).resolve().parents[1] / "results"
TOKENS = (131_072, 1_048_576, 4_194_304, 10_000_000)
RANKS = tuple(2**power for power in range(11))
REMOVED = 7 / 8
NOW = "one exchange"


def main(
    tokens: Annotated[list[int] | None, typer.Option(help="Lengths of the context.")] = None,
    most: Annotated[int, typer.Option(help="The largest number of ranks.")] = RANKS[-1],
    output: Annotated[Path, typer.Option(help="Folder for the picture.")] = RESULTS,
) -> None:
    """Print milliseconds of a step and bytes of the fullest rank, and draw them."""
    console, cluster, rate = Console(width=180), Cluster(), rate_of_codes()
    console.print(f"bytes of 4-bit codes read in the time of a byte of exact entries, on a CPU: {rate:.2f}")
    ranks, charts = [number for number in RANKS if number <= most], []
    for name, model in MODELS.items():
        for length in tokens or TOKENS:
            run = partial(_simulated, model, length, cluster=cluster)
            console.print(_table(f"{name}, {length:,} tokens", [_row(run, number, rate, cluster) for number in ranks]))
            charts.append(Chart(f"{_short(name)}, {_words(length)}", [*_lines(run, ranks, cluster)]))
    for theme in THEMES:
        (output / f"scaling-{theme.name}.png").write_bytes(to_png(draw(charts, len(tokens or TOKENS), theme)))


def _simulated(model: Decoder, tokens: int, ranks: int, *, cluster: Cluster, **settings: object) -> Outcome:
    return simulate(Setting(model, tokens, ranks, **settings), cluster)  # type: ignore[arg-type]


def _row(run: partial[Outcome], ranks: int, rate: float, cluster: Cluster) -> list[str]:
    """Return a row of the table: with a full cache, and with an eighth of its bytes."""
    full, less = ([run(ranks, rule=rule, ratio=ratio) for rule in RULES] for ratio in (0.0, REMOVED))
    now, slow = run(ranks, ratio=REMOVED, at_once=True), run(ranks, ratio=REMOVED, rate=rate)
    best = less[1]
    parts = best.reading / best.seconds, best.sending / best.seconds
    waiting = f"{parts[0]:.0%} / {parts[1]:.0%} / {max(0.0, 1 - sum(parts)):.0%}"
    bytes_held = [f"{one.nbytes / 1e9:,.1f}{'' if one.nbytes <= cluster.memory else ' *'}" for one in (full[1], best)]
    times = [f"{1000 * one.seconds:,.2f}" for one in (*full, *less, now, slow)]
    return [f"{ranks:,}", *bytes_held, *times, waiting]


def _table(title: str, rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=f"{title}: milliseconds of a step; * does not fit")
    table.add_column("ranks", justify="right")
    table.add_column("GB, full", justify="right")
    table.add_column("GB, 1/8", justify="right")
    for part in ("full", "1/8"):
        for rule in RULES:
            table.add_column(f"{part},\n{rule}", justify="right")
    for column in (f"1/8,\n{NOW}", "1/8,\nslow codes", "reading / sending\n/ waiting"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _lines(run: partial[Outcome], ranks: Sequence[int], cluster: Cluster) -> Iterator[Line]:
    """Yield the lines of a chart."""
    for label, settings in (
        ("full cache", {}),
        ("1/8 of the bytes, longest first", {"ratio": REMOVED}),
        ("1/8, hierarchical", {"ratio": REMOVED, "rule": "hierarchical"}),
        (f"1/8, {NOW} as in ShardedPiKVCache", {"ratio": REMOVED, "at_once": True}),
    ):
        found = [run(number, **settings) for number in ranks]
        points = [
            (number, 1000 * one.seconds, one.nbytes <= cluster.memory) for number, one in zip(ranks, found, strict=True)
        ]
        yield Line(label, points)


def _short(name: str) -> str:
    return name.rpartition("-")[2]


def _words(tokens: int) -> str:
    return f"{tokens / 1e6:,.0f}M tokens" if tokens >= 1e6 else f"{tokens // 1024}k tokens"


if __name__ == "__main__":
    typer.run(main)
