"""Divergence against bytes."""

from __future__ import annotations

from dataclasses import replace

from evaluation.report.figures.bytes import spends_bytes


def test_only_studies_with_byte_budgets_have_it(summary):
    assert not spends_bytes(summary)
    study = replace(summary.study, presses=[replace(press, unit="bytes") for press in summary.study.presses])
    assert spends_bytes(replace(summary, study=study))
