"""The command that runs kvpress's own tests: how it evaluates records, what it rejects, and a complete run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.kvpress_suite.__main__ import main
from scripts.kvpress_suite.checkout import find_checkout
from scripts.kvpress_suite.classify import Kind, Verdict, classify
from scripts.kvpress_suite.compare import TOLERANCE, deviation
from scripts.kvpress_suite.failures import failure_of
from scripts.kvpress_suite.passes import PASSES
from scripts.kvpress_suite.records import Failure, Forward, Record, append, read
from scripts.kvpress_suite.report import markdown
from scripts.kvpress_suite.runner import run_pass

FORWARD = Forward([1, 5, 24], "float32", [1.0, -2.0, 4.0])
PASSED = Record("tests/test_a.py::test_a", "passed", forwards=[FORWARD, replace(FORWARD, probe=True)])
REFUSAL = Failure("ValueError", "a press has masked entries", "pikvpress/cache/layer.py", ours=True)
BROKEN = Failure("RuntimeError", "The size of tensor a (82) must match", "transformers/sdpa.py")
HEADS = "tests/presses/test_head_compression.py::test_wrapper_head_compression[0.2-AdaKVPress]"


def failed(failure: Failure, **kwargs) -> Record:
    return replace(PASSED, outcome="failed", failure=failure, **kwargs)


def shifted(by: float, **kwargs) -> list[Forward]:
    return [FORWARD, replace(FORWARD, numbers=[1.0, -2.0 + by, 4.0], probe=True, **kwargs)]


def kind(record: Record, which: str = "cache", plain: Record | None = PASSED, other: Record | None = PASSED) -> Kind:
    return classify(record, PASSES[which], plain, other).kind


def test_same_numbers_pass():
    verdict = classify(replace(PASSED, forwards=shifted(4e-5)), PASSES["cache"], PASSED, PASSED)
    assert verdict.kind is Kind.PASSED and verdict.deviation == pytest.approx(1e-5)


def test_other_numbers_are_a_silent_difference():
    verdict = classify(replace(PASSED, forwards=shifted(0.04)), PASSES["cache"], PASSED, PASSED)
    assert verdict.kind is Kind.DIFFERS and verdict.deviation == pytest.approx(0.01)
    assert verdict.reason == "forward 1: a cache reads differently"


def test_tests_that_fail_alike_must_still_put_out_the_same():
    fails = failed(Failure("AssertionError", "assert 'a' == 'b'", "tests/test_a.py"))
    assert kind(fails, plain=fails, other=fails) is Kind.ALIKE
    assert kind(replace(fails, forwards=shifted(0.04)), plain=fails, other=fails) is Kind.DIFFERS


@pytest.mark.parametrize(
    ("here", "size"),
    [
        (shifted(0.0), 0.0),
        (shifted(0.0)[:1], math.inf),
        (shifted(math.nan), math.inf),
        ([FORWARD, replace(FORWARD, shape=[1, 6, 24], probe=True)], math.inf),
        ([FORWARD, FORWARD], math.inf),
    ],
)
def test_deviation(here, size):
    assert deviation(here, PASSED.forwards).size == size


def test_what_is_not_finite_in_both_is_the_same():
    assert deviation(shifted(math.nan), shifted(math.nan)).why == ""
    assert deviation(shifted(math.inf), shifted(-math.inf)).size == math.inf


def test_half_precision_is_compared_more_widely():
    by = 2 * TOLERANCE["float32"] * 4
    assert deviation(shifted(by), shifted(0.0)).why
    halves = [[replace(one, dtype="float16") for one in shifted(step)] for step in (by, 0.0)]
    assert not deviation(*halves).why


def test_failures():
    assert kind(failed(REFUSAL)) is Kind.REFUSED
    assert kind(failed(replace(REFUSAL, error="IndexError"))) is Kind.FAILED
    assert kind(failed(replace(REFUSAL, ours=False))) is Kind.FAILED
    assert kind(failed(BROKEN)) is Kind.FAILED
    assert kind(failed(BROKEN), "plain", None, None) is Kind.ALIKE
    other_sizes = replace(BROKEN, message="The size of tensor a (27) must match")
    assert kind(failed(other_sizes), plain=failed(BROKEN)) is Kind.ALIKE
    assert kind(failed(REFUSAL), plain=failed(BROKEN)) is Kind.REFUSED
    assert kind(replace(PASSED, outcome="skipped", failure=BROKEN)) is Kind.SKIPPED


def test_by_design_only_if_the_equivalent_holds_and_the_numbers_agree():
    looks_at_mask = Failure("AssertionError", "assert None is not None", "tests/presses/test_head_compression.py")
    record = replace(failed(looks_at_mask, equivalent=True), test=HEADS)
    verdict = classify(record, PASSES["cache"], PASSED, PASSED)
    assert verdict.kind is Kind.BY_DESIGN and "masked entries on the model" in verdict.reason
    assert kind(replace(record, equivalent=False)) is Kind.FAILED
    assert kind(replace(record, equivalent=None)) is Kind.FAILED
    assert kind(replace(record, forwards=shifted(0.04))) is Kind.DIFFERS


def test_a_cache_that_cannot_be_read_fails_the_test_that_left_it():
    unread = replace(PASSED, unread=BROKEN, forwards=[FORWARD])
    assert kind(unread) is Kind.FAILED
    assert kind(unread, "plain", None, None) is Kind.PASSED
    assert kind(unread, plain=unread, other=unread) is Kind.PASSED
    assert kind(replace(unread, unread=REFUSAL)) is Kind.REFUSED
    assert kind(PASSED, plain=unread, other=unread) is Kind.PASSED


def test_records_survive_the_file(tmp_path):
    records = [failed(BROKEN, unread=REFUSAL), replace(PASSED, test="b", forwards=shifted(math.nan))]
    for record in records:
        append(record, tmp_path / "records")
    assert repr(list(read(tmp_path / "records").values())) == repr(records)


def test_failures_name_no_folder_of_the_machine():
    with pytest.raises(OSError) as caught:
        raise OSError("no /home/somebody/models/a.bin, nor https://host/models/a.bin")
    failure = failure_of(caught.value)
    assert failure == Failure("OSError", "no a.bin, nor https://host/models/a.bin", "tests/test_kvpress_suite.py")


def test_report_names_everything_that_is_ours():
    found = [Verdict(f"tests/test_{number}.py", Kind.FAILED, "RuntimeError: no") for number in range(9)]
    page = markdown({"plain": [], "cache": found}, {"Date": "today"}, {"tests/test_b.py": "IndexError"}, 1e-4)
    assert all(f"`test_{number}.py`" in page for number in range(9))
    assert "| cache | 0 |" in page and "- `test_b.py`: IndexError" in page and "- Date: today" in page


PROJECT = '[project]\nname = "kvpress"\nversion = "0.5.4"\n\n[tool.other]\nname = "other"\n'
PRESSES = """
from kvpress import KnormPress

default_presses = [{"cls": KnormPress, "kwargs": [{"compression_ratio": 0.2}, {"compression_ratio": 0.8}]}]
"""
TESTS = """
import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from kvpress import AdaKVPress
from tests.default_presses import default_presses


@pytest.mark.parametrize("press_dict", default_presses)
def test_one(press_dict):
    model = AutoModelForCausalLM.from_pretrained("MaxJeblick/llama2-0b-unit-test")
    press = press_dict["cls"](**press_dict["kwargs"][0])
    with AdaKVPress(press)(model), torch.no_grad():
        model(torch.arange(64)[None], past_key_values=DynamicCache())


def test_two():
    model = AutoModelForCausalLM.from_pretrained("MaxJeblick/llama2-0b-unit-test")
    ids = torch.arange(64)[None]
    generated = model.generate(ids, max_new_tokens=2, return_dict_in_generate=True)
    made = [DynamicCache(), model(ids).past_key_values, generated.past_key_values]
    kinds = " ".join(type(cache).__name__ for cache in made)
    assert kinds == "DynamicCache DynamicCache DynamicCache", kinds
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Return a minimal checkout."""
    folder = tmp_path / "kvpress"
    (folder / "tests").mkdir(parents=True)
    (folder / "kvpress").mkdir()  # not the package under test
    (folder / "kvpress" / "__init__.py").write_text("raise ImportError('the checkout stands before the package')\n")
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "tests" / "__init__.py").touch()
    (folder / "tests" / "default_presses.py").write_text(PRESSES)
    (folder / "tests" / "test_some.py").write_text(TESTS)
    return folder


def test_finds_a_checkout(checkout):
    assert find_checkout(checkout).version == "0.5.4"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('name = "kvpress"\n', 'name = "another"\n', "not a checkout of kvpress"),
        ("0.5.4", "0.6.0", "is kvpress 0.6.0"),
        ('version = "0.5.4"\n', "", "is kvpress of no version"),
    ],
)
def test_refuses_another_checkout(checkout, before, after, message):
    (checkout / "pyproject.toml").write_text(PROJECT.replace(before, after))
    with pytest.raises(ValueError, match=message):
        find_checkout(checkout)


def test_refuses_what_is_no_checkout(checkout, capsys):
    (checkout / "tests" / "default_presses.py").unlink()
    for arguments in ([], [str(checkout / "nowhere")], [str(checkout)], [str(checkout / "tests")]):
        assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all("pass a checkout of github.com/NVIDIA/kvpress" in line for line in lines)


def test_end_to_end(checkout, tmp_path):
    report, records = tmp_path / "report.md", tmp_path / "records"
    status = main([str(checkout), "--report", str(report), "--records", str(records)])
    assert status == 1, "test_two should fail if caches are replaced"
    plain, cache, presses, both = (read(records / f"{name}.jsonl") for name in PASSES)
    assert {record.outcome for record in plain.values()} == {"passed"} and len(plain) == 2
    knorm, two = (f"tests/test_some.py::{name}" for name in ("test_one[KnormPress]", "test_two"))
    assert [forward.probe for forward in plain[knorm].forwards] == [False, True, True]
    assert cache[knorm].outcome == "passed" and not deviation(cache[knorm].forwards, plain[knorm].forwards).why
    assert cache[two].failure is not None and cache[two].failure.message.startswith(
        "StandInCache " * 2 + "StandInCache"
    )
    assert presses[two].outcome == "passed" and both[two].outcome == "failed"
    ours = set(presses) - set(plain)
    assert set(both) == set(presses) and len(ours) > 10
    pyramid, pikv = (next(test for test in ours if name in test) for name in ("pyramid", "PiKVPress"))
    assert presses[pyramid].failure is not None and presses[pyramid].failure.ours
    assert presses[pikv].failure is not None and not presses[pikv].failure.ours  # kvpress requires a ScorerPress
    page = report.read_text()
    assert "make test-kvpress" in page and str(tmp_path) not in page


def test_the_plain_pass_must_do_without_pikvpress(checkout, tmp_path):
    (checkout / "tests" / "test_some.py").write_text("def test_one():\n    import pikvpress\n")
    with pytest.raises(RuntimeError, match="pikvpress was imported in the plain pass"):
        run_pass(PASSES["plain"], find_checkout(checkout), tmp_path)
