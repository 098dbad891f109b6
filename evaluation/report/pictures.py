"""The figures of the report, as PNG files and as SVG elements of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from evaluation.report.contents import MeasuredBenchmark
from evaluation.report.figures.bytes import draw_bytes, spends_bytes
from evaluation.report.figures.canvas import to_svg
from evaluation.report.figures.curves import draw_curves
from evaluation.report.figures.heatmaps import draw_depth_heat, draw_task_heat
from evaluation.report.figures.pareto import HELD, OVERHEAD, draw_pareto
from evaluation.report.summary import Group, Summary
from evaluation.report.theme import LIGHT, Theme
from evaluation.schema import FULL_CACHE, Measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEEDLE = "needle"


@dataclass(frozen=True)
class Picture:
    """A figure for a PNG file: its name, its description, and how to draw it."""

    name: str
    description: str
    draw: Callable[[Theme], Figure]


def png_pictures(summary: Summary) -> Iterator[Picture]:
    """Yield the main figures of each benchmark."""
    for benchmark, groups in of_benchmarks(summary):
        label, measure = benchmark.label, benchmark.main.label
        last = groups[-1]
        yield Picture(
            f"curves-{benchmark.slug}",
            f"{label}: {measure} against compression ratio, one line per press, the full cache dashed",
            partial(draw_curves, summary, groups),
        )
        if benchmark.name == NEEDLE:
            ratio = summary.middle_ratio(last)
            yield Picture(
                "needle",
                f"Needle found by depth and length, one panel per press, ratio {ratio:g}",
                partial(draw_depth_heat, summary, groups, ratio),
            )
        elif len(last.tasks) > 1:
            ratio = summary.middle_ratio(last)
            yield Picture(
                f"heatmap-{last.slug}",
                f"{last.title}: {measure} by press and task, ratio {ratio:g}",
                partial(draw_task_heat, summary, last, ratio),
            )
        yield Picture(
            f"memory-{benchmark.slug}",
            f"{label}: {measure} against bytes actually held",
            partial(draw_pareto, summary, [(group, None) for group in groups], HELD),
        )
        if spends_bytes(summary):
            yield Picture(
                f"bytes-{benchmark.slug}",
                f"{label}: {measure} against bytes actually held, as shares of a full cache in 16 bits",
                partial(draw_bytes, summary, groups),
            )
        if has_times(summary, groups):
            yield Picture(
                f"time-{benchmark.slug}",
                f"{label}: {measure} against time that the press adds",
                partial(draw_pareto, summary, [(group, summary.middle_ratio(group)) for group in groups], OVERHEAD),
            )


def of_benchmarks(summary: Summary) -> list[tuple[MeasuredBenchmark, list[Group]]]:
    """Return each benchmark that has compressed results, with its groups."""
    answer = []
    for benchmark in summary.study.benchmarks:
        groups = [group for group in summary.groups if group.benchmark == benchmark and summary.ratios(group)]
        if groups:
            answer.append((benchmark, groups))
    return answer


def has_times(summary: Summary, groups: list[Group]) -> bool:
    """Whether any press of these groups was timed."""
    return any((summary.of(group)["overhead_percent"] > 0).any() for group in groups)


def has_means(summary: Summary, group: Group, measure: Measure) -> bool:
    """Whether a measure has results of presses that compress."""
    table = summary.of(group, measure)
    return bool(table.loc[table["press"] != FULL_CACHE, "mean"].notna().any())


def curve_svg(summary: Summary, group: Group, groups: list[Group], measure: Measure) -> str:
    """Return one panel of curves."""
    return to_svg(
        draw_curves(summary, [group], LIGHT, measure, scale=groups, wide=True),
        f"curve-{group.slug}-{measure.name}",
        f"{group.title}: {measure.label} against compression ratio, one line per press; the scores have the numbers",
    )


def pareto_svg(summary: Summary, group: Group, groups: list[Group], cost: str, ratio: float | None) -> str:
    """Return one panel of score against cost."""
    what = "bytes held" if cost == HELD else f"time that the press adds, at ratio {ratio:g}"
    return to_svg(
        draw_pareto(summary, [(group, ratio)], cost, LIGHT, key=False, scale=[(other, ratio) for other in groups]),
        f"{cost.split('_')[0]}-{group.slug}-{'all' if ratio is None else f'{ratio:g}'.replace('.', '_')}",
        f"{group.title}: {group.benchmark.main.label} against {what}; report.csv has the numbers",
    )
