"""What a study may request, on the command line and in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.study import BenchmarkSettings, make_study, read_study, with_options

GOOD = {"benchmarks": ["ruler"], "lengths": [1024], "presses": ["knorm"], "ratios": [0.5], "output": "out"}


GOES_ON = {"benchmarks": ["continuation"], "presses": ["scheduled_h2o"]}


def test_settings_at_the_top_hold_unless_a_benchmark_says_otherwise(tmp_path):
    benchmarks = [
        {"name": "ruler", "lengths": [2048, 4096], "samples": 2},
        "fidelity",
        {"name": "math500", "data": "m"},
    ]
    study = make_study(GOOD | {"benchmarks": benchmarks, "samples": 7, "fraction": 0.5, "seed": 3})
    assert study.benchmarks == (
        BenchmarkSettings("ruler", (2048, 4096), samples=2, fraction=0.5),
        BenchmarkSettings("fidelity", (1024,), samples=7, fraction=0.5),
        BenchmarkSettings("math500", samples=7, fraction=0.5, data=Path("m")),
    )
    assert (study.names, study.ratios, study.seed, study.output) == (("knorm",), (0.5,), 3, Path("out"))


def test_a_file_gives_the_settings(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(
        "benchmarks: ruler\nlengths: 512\npresses: [knorm, 'snapkv@window_size=16']\nratios: 0.5\noutput: o\n"
    )
    assert make_study(read_study(file)).names == ("knorm", "snapkv@window_size=16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"benchmarks": ["rulr"]}, "unknown benchmark 'rulr': did you mean ruler"),
        ({"benchmarks": []}, "a study needs benchmarks"),
        ({"benchmarks": [{"lengths": [4]}]}, "a benchmark needs a name"),
        ({"benchmarks": [{"name": "ruler", "sample": 4}]}, "did you mean samples"),
        ({"benchmarks": ["ruler", "ruler"]}, "given twice at the same length"),
        ({"lengths": None}, "specify one, for example --length 1024"),
        ({"lengths": [1024, 1024]}, "given twice"),
        ({"lengths": [0]}, "length must be at least 1"),
        ({"benchmarks": [{"name": "math500", "lengths": [4]}]}, "fixed lengths"),
        ({"presses": []}, "a study needs presses"),
        ({"presses": ["knrm"]}, "did you mean knorm"),
        ({"presses": ["knorm", "knorm"]}, "a press is given twice"),
        ({"presses": ["no_press"]}, "always run"),
        ({"presses": ["finch"]}, "add --query-aware"),
        ({"presses": ["decoding_knorm"], "benchmarks": ["fidelity"]}, "has no answers"),
        ({"ratios": []}, "no ratio is given"),
        ({"ratios": [0.5, 0.5]}, "a ratio is given twice"),
        ({"ratios": [1.0]}, "compression_ratio"),
        ({"ratios": [0]}, "removes nothing"),
        ({"fraction": 0}, "above 0 and at most 1"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"dtype": "float8"}, "unknown dtype"),
        ({"presess": ["knorm"]}, "did you mean presses"),
        (
            {"benchmarks": [{"name": "ruler", "continued": 9}]},
            "'ruler' has no continuations: omit continued and at_once",
        ),
        (
            GOES_ON | {"benchmarks": [{"name": "continuation", "at_once": 48}]},
            "must divide a page of 64 tokens",
        ),
        (GOES_ON | {"benchmarks": [{"name": "continuation", "continued": 0}]}, "continued must be at least 1, got 0"),
        (GOES_ON | {"query_aware": True}, "'continuation' has no questions that a press could see"),
        (GOES_ON | {"presses": ["knorm"]}, "under a ceiling, which knorm does not keep: use presses named scheduled_"),
    ],
)
def test_what_cannot_be_run(change, message):
    with pytest.raises(ValueError, match=message):
        make_study(GOOD | change)


@pytest.mark.parametrize("change", [{"samples": "many"}, {"seed": 0.5}, {"lengths": ["long"]}, {"fraction": True}])
def test_wrong_types(change):
    with pytest.raises(TypeError, match="must be a"):
        make_study(GOOD | change)


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no study at"):
        read_study(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- knorm\n")
    with pytest.raises(ValueError, match="must map settings"):
        read_study(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("presses: [knorm\n")
    with pytest.raises(ValueError, match="is not valid YAML"):
        read_study(tmp_path / "bad.yaml")


def test_labels_follow_the_presses_that_are_run():
    settings = {"presses": ["knorm", "tova"], "labels": {"knorm": "Knorm", "tova": "TOVA"}}
    assert with_options(settings, {"presses": ["tova", "snapkv"]})["labels"] == {"tova": "TOVA"}
    assert with_options(settings, {})["labels"] == settings["labels"]
    with pytest.raises(ValueError, match="press to label in the study"):
        with_options({"presses": ["knorm"], "labels": {"tova": "TOVA"}}, {"presses": ["tova"]})
