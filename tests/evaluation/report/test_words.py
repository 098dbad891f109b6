"""A description of what was run."""

from __future__ import annotations

from evaluation.report.words import facts, limits, reading


def test_facts_name_model_and_command_and_limits_what_was_not_shown(summary):
    said = dict(facts(summary))
    assert summary.study.facts["model"] in said.values() and len(said) >= 4
    assert any("Intervals are over samples only" in line for line in limits(summary))
    assert reading(summary) and all(line.strip() for line in reading(summary))
