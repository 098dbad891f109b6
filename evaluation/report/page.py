"""The report as one HTML page without external resources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation.report import words
from evaluation.report.contents import MeasuredBenchmark
from evaluation.report.figures.pareto import HELD, OVERHEAD
from evaluation.report.heat import Heat, depth_heat, task_heat
from evaluation.report.pictures import NEEDLE, curve_svg, has_means, has_times, of_benchmarks, pareto_svg
from evaluation.report.summary import Group, Summary
from evaluation.report.tables import glances, pair_rows, score_rows
from evaluation.report.theme import FOUND, THEMES, Look, blend, looks, text_on
from evaluation.schema import Measure

STEPS = 20
SHAPES = {
    "o": '<circle cx="7" cy="7" r="5"/>',
    "s": '<rect x="2.5" y="2.5" width="9" height="9"/>',
    "^": '<path d="M7 1.5 12.5 12h-11z"/>',
    "D": '<path d="M7 1 13 7 7 13 1 7z"/>',
}


def render(summary: Summary) -> str:
    """Return the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    styles = looks(summary.presses, summary.highlighted, summary.masked)
    return environment.get_template("template.html.j2").render(
        facts=words.facts(summary),
        model=dict(words.facts(summary))["model"],
        date=dict(words.facts(summary))["date"],
        notes=summary.study.notes,
        reading=words.reading(summary),
        limits=words.limits(summary),
        glances=glances(summary),
        highlighted=summary.highlighted_labels,
        any_masked=bool(summary.masked),
        key=[(summary.label(name), look.highlighted, _mark(look)) for name, look in styles.items()],
        benchmarks=[_benchmark(summary, benchmark, groups) for benchmark, groups in of_benchmarks(summary)],
        colours=Markup(_colours()),
        step=lambda position: round(position * STEPS),
    )


def _benchmark(summary: Summary, benchmark: MeasuredBenchmark, groups: list[Group]) -> dict[str, Any]:
    """Return everything that the template shows for one benchmark."""
    return {
        "name": benchmark.name,
        "label": benchmark.label,
        "main": benchmark.main,
        "curves": _curves(summary, groups, benchmark.measures if len(groups) == 1 else (benchmark.main,)),
        "more_curves": _curves(summary, groups, benchmark.measures[1:] if len(groups) > 1 else ()),
        "memory": [Markup(pareto_svg(summary, group, groups, HELD, None)) for group in groups],
        "times": _times(summary, groups) if has_times(summary, groups) else [],
        "groups": [_group(summary, group) for group in groups],
        "depths": _depths(summary, groups) if benchmark.name == NEEDLE else [],
        "depth_ratio": summary.middle_ratio(groups[-1]),
    }


def _curves(summary: Summary, groups: list[Group], measures: Sequence[Measure]) -> list[Markup]:
    return [
        Markup(curve_svg(summary, group, groups, measure))
        for measure in measures
        for group in groups
        if has_means(summary, group, measure)
    ]


def _times(summary: Summary, groups: list[Group]) -> list[tuple[float, bool, list[Markup]]]:
    """Return a ratio, whether it is shown initially, and its panels."""
    ratios = sorted({ratio for group in groups for ratio in summary.ratios(group)})
    answer = []
    for ratio in ratios:
        having = [group for group in groups if ratio in summary.ratios(group)]
        panels = [Markup(pareto_svg(summary, group, having, OVERHEAD, ratio)) for group in having]
        answer.append((ratio, ratio == summary.middle_ratio(groups[-1]), panels))
    return answer


def _group(summary: Summary, group: Group) -> dict[str, Any]:
    measures = [measure for measure in group.benchmark.measures if has_means(summary, group, measure)]
    mapped = len(group.tasks) > 1 and group.benchmark.name != NEEDLE
    return {
        "title": group.title,
        "slug": group.slug,
        "samples": group.samples,
        "ratios": summary.ratios(group),
        "scores": [(measure, score_rows(summary, group, measure)) for measure in measures],
        "pairs": pair_rows(summary, group),
        "heats": [(ratio, task_heat(summary, group, ratio)) for ratio in summary.ratios(group)] if mapped else [],
    }


def _depths(summary: Summary, groups: list[Group]) -> list[tuple[float, dict[str, Heat]]]:
    ratios = sorted({ratio for group in groups for ratio in summary.ratios(group)})
    return [(ratio, depth_heat(summary, groups, ratio)) for ratio in ratios]


def _mark(look: Look) -> Markup:
    """Return a press's mark in the legend."""
    fill = "var(--surface)" if look.hollow else f"var(--{look.token})"
    style = f"fill:{fill};stroke:var(--{look.token});stroke-width:2"
    return Markup(f'<svg width="14" height="14" aria-hidden="true" style="{style}">{SHAPES[look.marker]}</svg>')


def _colours() -> str:
    """Return the colours as CSS variables, and classes for the steps of the ramps."""
    blocks = []
    for theme in THEMES:
        lines = [f"--{name}:{colour}" for name, colour in theme.tokens().items()]
        for step in range(STEPS + 1):
            colour = blend(theme.ramp, step / STEPS)
            lines += [f"--h{step}:{colour}", f"--t{step}:{text_on(colour)}"]
        blocks.append(f":root{{color-scheme:{theme.name};{';'.join(lines)}}}")
    blocks[1] = f"@media (prefers-color-scheme:dark){{{blocks[1]}}}"
    for step in range(STEPS + 1):
        found = blend(FOUND, step / STEPS)
        blocks.append(f".h{step}{{background:var(--h{step});color:var(--t{step})}}")
        blocks.append(f".f{step}{{background:{found};color:{text_on(found)}}}")
    return "\n".join(blocks)
