"""The report as Markdown, which is readable without the accompanying figures."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.report import words
from evaluation.report.pictures import Picture, has_means, of_benchmarks
from evaluation.report.summary import Summary
from evaluation.report.tables import markdown_glances, markdown_pairs, markdown_scores


def render(summary: Summary, pictures: Sequence[Picture]) -> str:
    """Return the report."""
    facts = words.facts(summary)
    parts = [f"# KV-cache compression on {dict(facts)['model']}"]
    parts += [f"> **Note:** {note}" for note in summary.study.notes]
    parts += ["## At a glance", markdown_glances(summary)]
    parts += ["### How to read this", _list(words.reading(summary)), "### Limits", _list(words.limits(summary))]
    parts.append("## Scores")
    for benchmark, groups in of_benchmarks(summary):
        for group in groups:
            parts.append(f"### {group.title}")
            for measure in benchmark.measures:
                if has_means(summary, group, measure):
                    better = "higher" if measure.higher_is_better else "lower"
                    what = f"{measure.label}, {better} is better; {group.samples} samples; mean (95 % interval)."
                    parts.append(f"{what} {words.RATIO}")
                    parts.append(markdown_scores(summary, group, measure))
    parts.append("## Difference from the best other press")
    for benchmark, groups in of_benchmarks(summary):
        for group in groups:
            better = "above" if benchmark.main.higher_is_better else "below"
            parts.append(f"### {group.title}: {benchmark.main.label}, {better} zero is better")
            parts.append(words.RATIO)
            parts.append(_folded("every press", markdown_pairs(summary, group)))
            if summary.highlighted:
                parts[-1:] = [markdown_pairs(summary, group, highlighted=True), parts[-1]]
    parts += ["## What was run", "\n".join(f"- {name}: {_quoted(name, text)}" for name, text in facts)]
    parts += ["## Other files", words.DRAWN, _list([f"`{p.name}`: {p.description}" for p in pictures])]
    return "\n\n".join(parts) + "\n"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _quoted(name: str, text: str) -> str:
    return f"`{text}`" if name == "command" else text
