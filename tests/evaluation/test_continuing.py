"""Continuations are read under a ceiling that is checked at every step, and studies of them resume."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from typer.testing import CliRunner

from evaluation import continuing
from evaluation.cli import app
from evaluation.continuing import ContinuationRun
from evaluation.journal import Journal
from evaluation.presses import FULL_CACHE
from evaluation.runner import jobs
from evaluation.study import make_study
from evaluation.units import make_units
from pikvpress import PiKVCache
from pikvpress.schedulers import SCHEDULERS

SETTINGS = {"name": "continuation", "lengths": [460], "continued": 300, "samples": 1, "at_once": 8, "tasks": ["prose"]}
SHORT = SETTINGS | {"lengths": [380], "continued": 120, "at_once": 1}
STUDY = {"benchmarks": [SETTINGS], "ratios": [0.5], "output": "unused"}
PRESSES = [f"scheduled_{name}" for name in SCHEDULERS]
PRESSES += ["scheduled_h2o@codec=rot4@window=8", "prefill_decoding_knorm", "prefill_decoding_tova"]


def ran(model, tokenizer, presses, **changes):
    """Return the records of a study, by press."""
    study = make_study(STUDY | {"presses": presses} | changes)
    (unit,) = make_units(study, tokenizer, 1024)
    records = ContinuationRun(study, model, tokenizer, unit).records([[job] for job in jobs(study)])
    return {record["press"]: record for (record,) in records}


def test_every_press_stays_within_its_ceiling(tiny, tokenizer, named):
    found = ran(tiny, tokenizer, PRESSES)
    assert [*found] == [FULL_CACHE, *PRESSES]
    full = found[FULL_CACHE]
    assert full["measures"]["kl"] < 1e-5 and full["bytes_held"] == full["bytes_full"]
    assert full["bytes_full"] == full["context_tokens"] * 2 * 2 * 2 * 32 * 4
    for name, record in found.items():
        if name not in (FULL_CACHE, "scheduled_quest"):
            assert 0.6 * full["bytes_full"] / 2 < record["bytes_held"] <= full["bytes_full"] / 2
            assert record["measures"]["kl"] > 10 * abs(full["measures"]["kl"])
        assert record["measures"]["speed"] > 0 and len(record["token_kl"]) > 280
    assert found["scheduled_quest"]["bytes_held"] > full["bytes_full"]  # it holds everything, and bounds of pages
    assert found["scheduled_h2o@codec=rot4@window=8"]["tokens_kept"] > 1.2 * found["scheduled_h2o"]["tokens_kept"]


def test_predictions_are_those_of_generation(tiny, tokenizer):
    """The same text is read token by token by the model itself, with a cache of the same settings."""
    record = ran(tiny, tokenizer, ["scheduled_streaming_llm"], benchmarks=[SHORT])
    study = make_study(STUDY | {"benchmarks": [SHORT], "presses": ["scheduled_streaming_llm"]})
    ((sample,),) = (unit.samples for unit in make_units(study, tokenizer, 1024))
    total = len(sample.context) + len(sample.answer)
    cache = PiKVCache(window=32, scheduler="streaming_llm", max_bytes=total * 2 * 2 * 2 * 32 * 4 // 2)
    with torch.no_grad():
        tiny.model(torch.tensor([sample.context]), past_key_values=cache)
        steps = [tiny(torch.tensor([[token]]), past_key_values=cache).logits[0] for token in sample.answer]
        whole = tiny(torch.tensor([[*sample.context, *sample.answer]])).logits[0, len(sample.context) :]
    ours, theirs = (logits.double().log_softmax(-1) for logits in (torch.cat(steps), whole))
    expected = (theirs.exp() * (theirs - ours)).sum(-1)
    found = torch.tensor(record["scheduled_streaming_llm"]["token_kl"], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-2)


def test_only_answers_are_measured_where_facts_are_recalled(tiny, tokenizer):
    settings = SETTINGS | {"tasks": ["recall"], "lengths": [1000], "continued": 800}
    study = make_study(STUDY | {"benchmarks": [settings], "presses": ["scheduled_streaming_llm"]})
    (unit,) = make_units(study, tokenizer, 1024)
    ((full,), (record,)) = ContinuationRun(study, tiny, tokenizer, unit).records([[job] for job in jobs(study)])
    assert len(record["token_kl"]) == len(unit.samples[0].answer) < 250 < len(unit.samples[0].question)
    assert max(full["token_kl"]) < 1e-4 < max(record["token_kl"])


@pytest.mark.parametrize("name", ["scheduled_h2o", "prefill_decoding_knorm"])
def test_a_byte_too_many_ends_the_study(name, tiny, tokenizer, monkeypatch):
    class Heavy(PiKVCache):
        nbytes = property(lambda self: 10**9 if self.get_seq_length() > 200 else 1)

    monkeypatch.setattr(continuing, "_nbytes", lambda cache: 10**9)
    monkeypatch.setattr("evaluation.held.PiKVCache", Heavy)
    message = rf"press {name} failed on sample prose-0 .* at ratio 0.5 .* holds 1,000,000,000 bytes after \d+ tokens"
    with pytest.raises(ValueError, match=message):
        ran(tiny, tokenizer, [name])


def test_it_is_continued_where_it_ended_and_not_mixed_up(tiny_folder, tmp_path, monkeypatch):
    def run(**changes):
        file = tmp_path / "study.yaml"
        presses = changes.pop("presses", ["scheduled_h2o", "prefill_decoding_knorm"])
        study = STUDY | {"presses": presses, "model": str(tiny_folder), "output": str(tmp_path / "results")}
        file.write_text(yaml.safe_dump(study | {"benchmarks": [SETTINGS | changes]}))
        return CliRunner().invoke(app, ["run", str(file)])

    real, done = Journal.append, []

    def append(self, records):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(records)
        real(self, records)

    monkeypatch.setattr(Journal, "append", append)
    assert run().exit_code != 0
    lines = (tmp_path / "results/samples-0.jsonl").read_text().splitlines()
    assert [json.loads(line)["press"] for line in lines] == [FULL_CACHE, "scheduled_h2o"]
    monkeypatch.setattr(Journal, "append", real)
    assert run().exit_code == 0
    again = (tmp_path / "results/samples-0.jsonl").read_text().splitlines()
    assert again[:2] == lines and len(again) == 3  # each is written as soon as it is read
    result = run(continued=280)
    assert (
        result.exit_code == 2 and "holds results with {'continued': 300, 'at_once': 8} at length 460" in result.output
    )
    assert CliRunner().invoke(app, ["report", str(tmp_path / "results")]).exit_code == 0
    report = (tmp_path / "results/report.md").read_text()
    assert "KL divergence, last quarter" in report and "scheduled_h2o" in report
