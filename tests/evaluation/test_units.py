"""A study as contexts with their questions: which share a prefill, which are run, and in what order."""

from __future__ import annotations

import json
from unittest.mock import patch

import pytest

from evaluation.benchmarks.benchmark import AnswerBenchmark, Measure
from evaluation.benchmarks.registry import BENCHMARKS
from evaluation.compressors import PrefilledContext, source_context
from evaluation.evaluate import evaluate
from evaluation.rows import Row
from evaluation.study import make_study
from evaluation.texts import manual
from evaluation.units import make_units


class Asked(AnswerBenchmark):
    """A benchmark with two texts, one of which has two questions."""

    name = "asked"
    measures = (Measure("long", "characters", True),)

    def rows(self, request):
        texts = [manual()[:900], manual()[2000:2900]]
        asked = [(0, "What is first?"), (1, "Who?"), (0, "What is last, and why is it the last of all?")]
        return [Row(texts[i], f"{question} ", "It is", "", 5, "what") for i, question in asked]

    def score(self, row, prediction):
        return {"long": float(len(prediction))}

    def metrics(self, rows, predictions):
        return {"long": sum(map(len, predictions))}


@pytest.fixture
def settings(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "asked", Asked())
    return {
        "benchmarks": ["asked"],
        "presses": ["knorm", "adakv_knorm"],
        "ratios": [0.5],
        "model": str(tiny_folder),
        "output": tmp_path / "out",
    }


def predictions(folder):
    lines = [json.loads(line) for line in (folder / "samples-0.jsonl").read_text().splitlines()]
    return {(line["sample"], line["press"]): line["prediction"] for line in lines}


def test_questions_about_one_context_share_its_prefill_and_are_answered_as_if_alone(settings, tmp_path):
    with patch.object(source_context, "PrefilledContext", wraps=PrefilledContext) as prefills:
        evaluate(make_study(settings))
    assert prefills.call_count == 2
    together = predictions(tmp_path / "out")
    assert set(together) == {(f"what-{i}", press) for i in range(3) for press in ("no_press", "knorm", "adakv_knorm")}
    rows = Asked().rows(None)
    for i, row in enumerate(rows):
        with patch.object(Asked, "rows", lambda self, request, row=row: [row]):
            evaluate(make_study(settings | {"output": tmp_path / f"alone{i}"}))
        alone = predictions(tmp_path / f"alone{i}")
        for press in ("no_press", "knorm", "adakv_knorm"):
            assert alone["what-0", press] == together[f"what-{i}", press]


def test_a_share_of_loaded_rows_is_drawn_and_keeps_its_names(settings, tokenizer):
    whole = [s for unit in make_units(make_study(settings), tokenizer, None) for s in unit.samples]
    some = [s for u in make_units(make_study(settings | {"fraction": 0.5}), tokenizer, None) for s in u.samples]
    assert len(some) == 2 and {sample.name for sample in some} < {sample.name for sample in whole}
    again = [s for u in make_units(make_study(settings | {"fraction": 0.5}), tokenizer, None) for s in u.samples]
    assert some == again


def test_tasks_take_turns(settings, tokenizer):
    study = {"benchmarks": ["ruler"], "lengths": [400], "samples": 2, "tasks": ["niah_single_1", "niah_multikey_2"]}
    units = make_units(make_study(settings | study), tokenizer, None)
    order = [unit.samples[0].name for unit in units]
    assert order == ["niah_single_1-0", "niah_multikey_2-0", "niah_single_1-1", "niah_multikey_2-1"]


def test_longer_than_the_model_s_positions(settings, tokenizer):
    with pytest.raises(ValueError, match=r"sample what-0 of asked takes \d+ tokens .* the model has 64"):
        make_units(make_study(settings), tokenizer, 64)
