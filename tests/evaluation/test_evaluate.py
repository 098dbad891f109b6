"""Whole studies with a small random model: what they write, and how they resume after an interruption."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from evaluation.cli import app

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--benchmark",
    "ruler",
    "--length",
    "400",
    "--task",
    "niah_single_1",
    "--task",
    "niah_multikey_2",
    "--samples",
    "3",
]
SMALL += ["--press", "knorm", "--press", "random", "--press", "adakv_snapkv@window_size=8", "--ratio", "0.5"]
SMALL += ["--ratio", "0.875", "--max-new-tokens", "6"]


def run(*arguments):
    return CliRunner().invoke(app, ["run", *map(str, arguments)])


def files_of(folder: Path) -> dict[str, str]:
    """Return the contents of all files without times: all but the journals and study.yaml."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent != folder
    }


def records_of(folder: Path) -> dict[tuple, dict]:
    lines = [line for file in folder.glob("samples-*.jsonl") for line in file.read_text().splitlines()]
    records = [{k: v for k, v in json.loads(line).items() if "seconds" not in k} for line in lines]
    by_key = {(r["benchmark"], r["length"], r["sample"], r["press"], r["ratio"]): r for r in records}
    assert len(by_key) == len(records), "a sample was counted twice"
    return by_key


@pytest.fixture(scope="module")
def through(tiny_folder, tmp_path_factory) -> Path:
    """Return the folder of a study that ran to the end."""
    folder = tmp_path_factory.mktemp("through") / "results"
    result = run(*SMALL, "--model", tiny_folder, "--output", folder)
    assert result.exit_code == 0, result.output
    return folder


def test_the_layout_is_kvpress_s(through, tiny_folder):
    folders = sorted(path.name for path in through.iterdir() if path.is_dir())
    assert len(folders) == 7
    assert "ruler-2__400__tiny-llama__knorm__0.50" in folders
    assert "ruler-2__400__tiny-llama__adakv_snapkv@window_size=8__0.88" in folders
    assert "ruler-2__400__tiny-llama__no_press__0.00" in folders
    folder = through / "ruler-2__400__tiny-llama__knorm__0.50"
    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    assert len(rows) == 6 and "context" not in rows[0]
    assert {"question", "answer_prefix", "answer", "task", "max_new_tokens", "predicted_answer"} <= set(rows[0])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"niah_single_1", "niah_multikey_2"} and set(metrics["niah_multikey_2"]) == {"string_match"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["press_name"], config["compression_ratio"], config["data_dir"]) == ("knorm", 0.5, "400")
    assert config["press_init_command"] == "KnormPress(compression_ratio=0.5)"


def test_records_say_what_was_held(through):
    records = records_of(through)
    assert len(records) == 6 * 7
    for (_, _, _, press, ratio), record in records.items():
        tokens = record["context_tokens"]
        masked = press.startswith("adakv")
        assert record["masked"] == masked
        assert record["bytes_held"] / record["bytes_full"] == pytest.approx(1 if masked else 1 - ratio, abs=0.01)
        assert record["tokens_kept"] == pytest.approx(tokens * (1 - ratio), abs=2)
        assert len(record["measures"]) == 1 and record["new_tokens"] <= 6


def test_study_yaml_says_what_was_run(through):
    study = yaml.safe_load((through / "study.yaml").read_text())
    assert study["model"] == "tiny-llama" and study["seed"] == 0 and study["ratios"] == [0.5, 0.875]
    assert [press["name"] for press in study["presses"]] == [
        "no_press",
        "knorm",
        "random",
        "adakv_snapkv@window_size=8",
    ]
    assert study["presses"][3] == {"name": "adakv_snapkv@window_size=8", "unit": "tokens", "masks": True}
    assert study["benchmarks"][0]["label"] == "ruler-2" and study["benchmarks"][0]["samples"] == {"400": 6}
    assert set(study["versions"]) == {"pikvpress", "kvpress", "transformers", "torch", "python"}


def test_running_again_changes_nothing(through, tiny_folder):
    before = {path: path.read_bytes() for path in through.glob("samples-*.jsonl")}
    files = files_of(through)
    assert run(*SMALL, "--model", tiny_folder, "--output", through).exit_code == 0
    assert {path: path.read_bytes() for path in through.glob("samples-*.jsonl")} == before
    assert files_of(through) == files


def test_a_packed_study_goes_on_where_it_was(through, tiny_folder, tmp_path):
    folder = tmp_path / "results"
    shutil.copytree(through, folder)
    assert CliRunner().invoke(app, ["pack", str(folder)]).exit_code == 0
    packed = (folder / "samples.jsonl.gz").read_bytes()
    done = run(*SMALL, "--model", tiny_folder, "--output", folder, "--press", "keydiff")
    assert done.exit_code == 0, done.output
    assert (folder / "samples.jsonl.gz").read_bytes() == packed and files_of(through).items() <= files_of(
        folder
    ).items()
    assert {record["press"] for record in records_of(folder).values()} == {"keydiff"}


def command(folder, tiny_folder, *launcher):
    start = [*launcher] if launcher else [sys.executable]
    return [*start, "-m", "evaluation", "run", *SMALL, "--model", str(tiny_folder), "--output", str(folder)]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def test_killed_at_any_moment_it_goes_on(through, tiny_folder, tmp_path):
    folder = tmp_path / "results"
    for lines in (1, 9, 20):
        process = subprocess.Popen(command(folder, tiny_folder), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
        journal = folder / "samples-0.jsonl"
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
        with journal.open("ab") as file:  # as if killed in the middle of a line
            file.write(b'{"benchmark": "ruler", "len')
    subprocess.run(command(folder, tiny_folder), cwd=ROOT, env=environment(), check=True, capture_output=True)
    assert files_of(folder) == files_of(through)
    assert records_of(folder) == records_of(through)


def test_two_processes_share_the_work(through, tiny_folder, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29611"]
    folder = tmp_path / "results"
    done = subprocess.run(
        command(folder, tiny_folder, *launcher), cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shares = [len(file.read_text().splitlines()) for file in sorted(folder.glob("samples-*.jsonl"))]
    assert shares == [21, 21]
    assert records_of(folder) == records_of(through)
    assert files_of(folder) == files_of(through)


def test_presses_and_ratios_can_be_added(through, tiny_folder, tmp_path):
    folder = tmp_path / "results"
    assert run(*SMALL, "--press", "keydiff", "--model", tiny_folder, "--output", folder).exit_code == 0
    few = [
        "--benchmark",
        "ruler",
        "--length",
        "400",
        "--task",
        "niah_single_1",
        "--samples",
        "3",
        "--max-new-tokens",
        "6",
        "--press",
        "streaming_llm",
        "--ratio",
        "0.25",
    ]
    result = run(*few, "--model", tiny_folder, "--output", folder)
    assert result.exit_code == 0, result.output
    study = yaml.safe_load((folder / "study.yaml").read_text())
    assert study["ratios"] == [0.25, 0.5, 0.875]
    assert [press["name"] for press in study["presses"]][-2:] == ["keydiff", "streaming_llm"]
    assert study["benchmarks"][0]["label"] == "ruler-2" and study["benchmarks"][0]["samples"] == {"400": 6}
    assert len(records_of(folder)) == 6 * (1 + 4 * 2) + 3


def test_fidelity_and_presses_with_prefills_of_their_own(tiny_folder, tmp_path):
    arguments = ["--benchmark", "fidelity", "--length", "400", "--samples", "1", "--ratio", "0.5", "--ratio", "0.75"]
    for press in ("knorm", "kvzip", "observed_attention", "pyramidkv", "kvcompose", "oracle_choice"):
        arguments += ["--press", press]
    result = run(*arguments, "--model", tiny_folder, "--output", tmp_path / "results")
    assert result.exit_code == 0, result.output
    records = records_of(tmp_path / "results")
    assert len(records) == 6 * (1 + 6 * 2)
    for (_, _, _, press, _), record in records.items():
        kl = record["measures"]["kl"]
        assert kl == pytest.approx(0, abs=1e-6) if press == "no_press" else kl > 1e-6
        assert kl == pytest.approx(sum(record["token_kl"]) / len(record["token_kl"]))
        if press == "kvzip":
            assert record["masked"] and record["bytes_held"] == record["bytes_full"]
    metrics = json.loads((tmp_path / "results/fidelity__400__tiny-llama__knorm__0.50/metrics.json").read_text())
    assert list(metrics) == ["needle", "multi_key", "multi_value", "key_value", "prose", "code", "all"]
    assert set(metrics["all"]) == {"kl", "kl_p95", "top1_agreement", "perplexity_ratio"}
    assert metrics["all"]["kl_p95"] > metrics["all"]["kl"]


def test_query_aware_studies_show_the_question(tiny_folder, tmp_path):
    arguments = [*SMALL[:8], "--samples", "1", "--ratio", "0.5", "--max-new-tokens", "4", "--query-aware"]
    for press in ("snapkv@window_size=8", "finch"):
        arguments += ["--press", press]
    result = run(*arguments, "--model", tiny_folder, "--output", tmp_path / "results")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "results/ruler-2__400__tiny-llama__finch__0.50__query_aware/metrics.json").exists()
    hidden = tmp_path / "hidden"
    arguments = [*SMALL[:8], "--samples", "1", "--ratio", "0.5", "--max-new-tokens", "4", "--press", "knorm"]
    assert run(*arguments, "--model", tiny_folder, "--output", hidden).exit_code == 0
    for key, record in records_of(tmp_path / "results").items():
        shown, alone = record["context_tokens"], records_of(hidden)[(*key[:3], "no_press", 0.0)]["context_tokens"]
        assert shown > alone + 5


def test_presses_without_a_ratio_run_once(tiny_folder, tmp_path):
    arguments = [*SMALL[:8], "--samples", "1", "--ratio", "0.5", "--max-new-tokens", "6", "--press", "knorm"]
    arguments += ["--press", "decoding_knorm@target_size=64@compression_interval=2"]
    result = run(*arguments, "--model", tiny_folder, "--output", tmp_path / "results")
    assert result.exit_code == 0, result.output
    ratios = [key[4] for key in records_of(tmp_path / "results") if key[3].startswith("decoding")]
    assert ratios == [None, None]


def test_sharing_the_prefill_changes_no_answer(through, tiny_folder, tmp_path):
    result = run(*SMALL, "--no-share-prefill", "--model", tiny_folder, "--output", tmp_path / "results")
    assert result.exit_code == 0, result.output
    assert files_of(tmp_path / "results") == files_of(through)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "1"], "holds results with seed 0, this study has 1"),
        (["--query-aware"], "holds results with query_aware"),
        (["--max-new-tokens", "5"], "holds results with max_new_tokens"),
    ],
)
def test_other_studies_need_a_folder_of_their_own(change, message, through, tiny_folder):
    before = files_of(through)
    result = run(*SMALL, *change, "--model", tiny_folder, "--output", through)
    assert result.exit_code == 2 and message in result.output
    assert files_of(through) == before


def test_foreign_folders_are_left_alone(tiny_folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    result = run(*SMALL, "--model", tiny_folder, "--output", tmp_path)
    assert result.exit_code == 2 and "holds thesis.txt, but no study.yaml" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "study.yaml").write_text("presses: 3\n")
    result = run(*SMALL, "--model", tiny_folder, "--output", tmp_path)
    assert result.exit_code == 2 and "from another tool" in result.output
    result = run(*SMALL, "--model", tiny_folder, "--output", tmp_path / "thesis.txt")
    assert result.exit_code == 2 and "is a file" in result.output


def test_damaged_results_are_named(through, tiny_folder, tmp_path):
    import shutil

    shutil.copytree(through, tmp_path / "copy")
    with (tmp_path / "copy/samples-0.jsonl").open("a") as file:
        file.write("half a li\n")
    result = run(*SMALL, "--model", tiny_folder, "--output", tmp_path / "copy")
    assert result.exit_code == 2 and "line 43 of" in result.output


def test_contexts_longer_than_the_model_are_refused_before_anything_runs(tiny_folder, tmp_path):
    arguments = ["--benchmark", "ruler", "--length", "1500", "--task", "vt", "--samples", "1", "--press", "knorm"]
    result = run(*arguments, "--ratio", "0.5", "--model", tiny_folder, "--output", tmp_path / "results")
    assert result.exit_code == 2 and "the model has 1024 positions" in result.output
    assert not (tmp_path / "results").exists()


def test_a_press_that_fails_is_named_and_finished_samples_stay(tiny_folder, tmp_path):
    arguments = [*SMALL[:8], "--samples", "1", "--ratio", "0.5", "--max-new-tokens", "4"]
    arguments += ["--press", "knorm", "--press", "snapkv@window_size=2000"]
    arguments += ["--batch-size", "2"]  # contexts that are read together are stored together
    result = run(*arguments, "--model", tiny_folder, "--output", tmp_path / "results")
    assert result.exit_code == 2
    assert "press snapkv@window_size=2000 failed on sample niah_single_1-0" in result.output
    assert {key[3] for key in records_of(tmp_path / "results")} == {"no_press", "knorm"}


def test_missing_data_says_how_to_get_it(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = ["--benchmark", "math500", "--press", "knorm", "--ratio", "0.5", "--output", tmp_path / "results"]
    result = run(*arguments, "--model", tiny_folder, "--data", tmp_path / "none")
    assert result.exit_code == 2 and "hf download alessiodevoto/math500" in result.output
