"""The schema describes the columns of all results."""

from __future__ import annotations

import json

import pytest

from evaluation.benchmarks.registry import BENCHMARKS
from evaluation.evaluate import evaluate
from evaluation.schema import COLUMNS, KEY, MEASURES, NUMBERS, OF_ANSWERS, OF_PREDICTIONS, Measure, check_measures
from evaluation.study import make_study


def test_names_are_those_of_the_files_that_are_there():
    assert KEY == ("benchmark", "length", "sample", "press", "ratio")
    assert NUMBERS == (
        "ratio",
        "context_tokens",
        "tokens_kept",
        "bytes_full",
        "bytes_held",
        "prefill_seconds",
        "press_seconds",
    )


def test_units_stand_in_the_label():
    found = {measure.name: measure.unit for measure in BENCHMARKS["fidelity"].measures}
    assert found == {"kl": "nats/token", "kl_p95": "nats", "top1": "%", "log_perplexity_ratio": ""}
    assert Measure("a", "score (%)", True).percent and not Measure("a", "score", True).percent


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=lambda benchmark: benchmark.name)
def test_measures_are_named_once_and_can_be_read_again(benchmark):
    names = [measure.name for measure in benchmark.measures]
    assert len(set(names)) == len(names) and not any(measure.pooled for measure in benchmark.measures[:1])
    assert names or benchmark.name == "zero_scrolls"  # its answers are not public
    for measure in benchmark.measures:
        assert Measure(**json.loads(json.dumps(measure.described()))) == measure


@pytest.mark.parametrize(("benchmark", "further"), [("fidelity", OF_PREDICTIONS), ("ruler", OF_ANSWERS)])
def test_samples_have_these_columns(benchmark, further, tiny_folder, tmp_path):
    settings = {"benchmarks": [benchmark], "lengths": [400], "samples": 1, "ratios": [0.5], "max_new_tokens": 2}
    settings |= {"tasks": ["needle" if benchmark == "fidelity" else "niah_single_1"], "presses": ["adakv_knorm"]}
    evaluate(make_study(settings | {"model": str(tiny_folder), "output": tmp_path / "out"}))
    lines = (tmp_path / "out/samples-0.jsonl").read_text().splitlines()
    kinds = {"text": str, "number": (int, float), "flag": bool}
    assert len(lines) == 2
    for record in map(json.loads, lines):
        assert list(record) == [*(column.name for column in COLUMNS), MEASURES, *further]
        for column in COLUMNS:
            value = record[column.name]
            assert isinstance(value, kinds[column.kind]) or (value is None and column.may_be_null)
        measured = [measure.name for measure in BENCHMARKS[benchmark].measures if not measure.pooled]
        assert list(record[MEASURES]) == measured


@pytest.mark.parametrize("found", [{}, {"score": 1.0, "other": 2.0}, {"scores": 1.0}])
def test_a_benchmark_that_measures_something_else_is_told(found):
    declared = (Measure("score", "score (%)", True), Measure("kl_p95", "pooled", False))
    check_measures("mine", declared, {"score": 0.5})
    with pytest.raises(ValueError, match="benchmark 'mine' declares the measures score, but a sample has"):
        check_measures("mine", declared, found)
