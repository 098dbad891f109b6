"""The files of a study: ``study.yaml``, and a folder for each press and ratio in the layout of kvpress's evaluation."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel

from evaluation.benchmarks.registry import BENCHMARKS
from evaluation.files import write_whole
from evaluation.journal import Journal, key_of
from evaluation.labels import checked_labels
from evaluation.presses import FULL_CACHE, PressSpec, parse_press
from evaluation.reads import check_reads, reads_of
from evaluation.runner import jobs
from evaluation.study import BenchmarkSettings, Study
from evaluation.units import Sample, Unit
from pikvpress import models
from pikvpress.default_model import resolve_model

# Settings that determine results: they are fixed for a folder. Presses, ratios and benchmarks may be added.
FIXED = ("model", "model_fingerprint", "seed", "query_aware", "max_new_tokens", "dtype")
LISTS = ("presses", "ratios", "benchmarks")


def model_name(study: Study) -> str:
    """Return the model's name in tables and folders."""
    source, where = resolve_model(study.model)
    if study.model is None:
        return Path(where["gguf_file"]).name.split(".")[0]
    return study.model if not Path(source).exists() else Path(study.model).name


def describe(study: Study, model: PreTrainedModel, units: Iterable[Unit]) -> dict[str, Any]:
    """Return the description of a study for `study.yaml`."""
    tasks: dict[str, set[str]] = defaultdict(set)
    counts: dict[tuple[str, int | None], int] = defaultdict(int)
    for unit in units:
        tasks[unit.settings.name] |= {sample.row.task for sample in unit.samples}
        counts[unit.settings.name, unit.length] += len(unit.samples)
    reads = reads_of(study)
    return {
        "command": "python -m evaluation " + shlex.join(sys.argv[1:]),
        "date": date.today().isoformat(),
        "commit": _commit(),
        "model": model_name(study),
        "model_fingerprint": models.fingerprint(models.attention_layers(model)[0]),
        "seed": study.seed,
        "query_aware": study.query_aware,
        "max_new_tokens": study.max_new_tokens,
        "dtype": str(model.dtype).removeprefix("torch."),
        "versions": {
            **{name: version(name) for name in ("pikvpress", "kvpress", "transformers", "torch")},
            "python": sys.version.split()[0],
        },
        "machine": {
            "device": _device_name(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "cpus": os.cpu_count(),
        },
        "ratios": list(study.ratios),
        "presses": [_press(press) for press in (parse_press(FULL_CACHE), *study.presses)],
        **({"labels": dict(study.labels)} if study.labels else {}),
        "benchmarks": [
            {
                "name": name,
                "label": BENCHMARKS[name].label(sorted(seen)),
                "tasks": sorted(seen),
                "measures": [measure.described() for measure in BENCHMARKS[name].measures],
                "samples": {str(length): count for (which, length), count in counts.items() if which == name},
                **({"reads": reads[name]} if name in reads else {}),
            }
            for name, seen in tasks.items()
        ],
    }


def merge_into(folder: Path, described: dict[str, Any]) -> dict[str, Any]:
    """Return the description merged with the one in the folder.

    Raises
    ------
    ValueError
        If the folder contains other files, or results of another study.
    """
    file = folder / "study.yaml"
    if not file.exists():
        # Another process of this run may have been faster, and may already have samples.
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        strangers = [name for name in names if not name.startswith((".", "samples"))]
        if strangers:
            raise ValueError(
                f"{folder} holds {', '.join(strangers[:3])}, but no study.yaml: results need a separate folder, "
                "choose another --output"
            )
        return described
    try:
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
        found = {name: before[name] for name in (*FIXED, *LISTS)}
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is from another tool, or damaged: move it away, or choose another --output"
        ) from error
    for name in FIXED:
        if found[name] != described[name]:
            raise ValueError(
                f"{folder} holds results with {name} {found[name]!r}, this study has {described[name]!r}: choose "
                "another --output"
            )
    check_reads(folder, found["benchmarks"], described["benchmarks"])
    presses = list({press["name"]: press for press in [*found["presses"], *described["presses"]]}.values())
    labels = {**(before.get("labels") or {}), **described.get("labels", {})}
    checked_labels(labels, [press["name"] for press in presses], str(file))
    return described | {
        **({"labels": labels} if labels else {}),
        **{name: _all_of(before.get(name), described[name]) for name in ("command", "date", "commit")},
        "ratios": sorted({*found["ratios"], *described["ratios"]}),
        "presses": presses,
        "benchmarks": _joined(found["benchmarks"], described["benchmarks"]),
    }


def write_study(folder: Path, described: Mapping[str, Any]) -> None:
    """Write ``study.yaml``."""
    write_whole(folder / "study.yaml", yaml.safe_dump(dict(described), sort_keys=False, allow_unicode=True))


def write_results(study: Study, units: list[Unit], journal: Journal, name: str) -> int:
    """Write the folders of all presses and ratios whose samples are complete; return how many are incomplete.

    Parameters
    ----------
    study, units
        The study, and its units.
    journal : Journal
        The finished samples of all processes.
    name : str
        Name of the model.
    """
    records = {key_of(record): record for record in journal.read()}
    planned: dict[tuple[BenchmarkSettings, int | None], list[Sample]] = defaultdict(list)
    for unit in units:
        planned[unit.settings, unit.length] += unit.samples
    unfinished = 0
    for (settings, length), samples in planned.items():
        tasks = list(dict.fromkeys(sample.row.task for sample in samples))
        samples = sorted(samples, key=lambda sample: tasks.index(sample.row.task))  # stable within a task
        for press, ratio in jobs(study):
            keys = [(settings.name, length, sample.name, press.name, ratio) for sample in samples]
            if all(key in records for key in keys):
                _write_folder(study, settings, length, press, ratio, samples, [records[key] for key in keys], name)
            else:
                unfinished += 1
    return unfinished


def _write_folder(
    study: Study,
    settings: BenchmarkSettings,
    length: int | None,
    press: PressSpec,
    ratio: float | None,
    samples: list[Sample],
    records: list[dict[str, Any]],
    name: str,
) -> None:
    benchmark: Any = settings.benchmark
    rows = [sample.row for sample in samples]
    label = benchmark.label(sorted({row.task for row in rows}))
    # kvpress writes two digits, which turns 0.875 into 0.88; the exact ratio is in config.yaml.
    pieces = [label, str(length or ""), _in_folder(name), _in_folder(press.name), f"{ratio or 0:.2f}"]
    pieces += [f"fraction{settings.fraction:.3f}"] if settings.fraction < 1 else []
    pieces += ["query_aware"] if study.query_aware else []
    folder = study.output / "__".join(filter(None, pieces))
    config = {
        "dataset": label,
        "data_dir": str(length) if length else None,
        "model": name,
        "press_name": press.name,
        "compression_ratio": ratio,
        "fraction": settings.fraction,
        "max_new_tokens": study.max_new_tokens,
        "query_aware": study.query_aware,
        "press_init_command": str(press.make(ratio)),
        "seed": study.seed,
    }
    # Predictions first: a metric may lack something that has to be fetched.
    write_whole(folder / "predictions.csv", _table(samples, records, ratio))
    write_whole(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    if benchmark.teacher_forced:
        metrics = benchmark.summary(rows, records)
    else:
        metrics = benchmark.metrics(rows, [record["prediction"] for record in records])
    write_whole(folder / "metrics.json", json.dumps(metrics, indent=4, ensure_ascii=False))


def _table(samples: list[Sample], records: list[dict[str, Any]], ratio: float | None) -> str:
    """Return the samples with their results as CSV, without the context, as in kvpress."""
    lines = []
    for sample, record in zip(samples, records, strict=True):
        row = sample.row
        lines.append(
            {
                "sample": sample.name,
                "task": row.task,
                "question": row.question,
                "answer_prefix": row.answer_prefix,
                "answer": row.answer,
                "max_new_tokens": row.max_new_tokens,
                **row.extras,
                "predicted_answer": record.get("prediction", ""),
                "compression_ratio": ratio,
                **record["measures"],
            }
        )
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _all_of(before: Any, now: str) -> str | list[str]:
    """Return the distinct values of several runs into one folder; a single value if they agree."""
    values = list(dict.fromkeys([*(before if isinstance(before, list) else [before or now]), now]))
    return values if len(values) > 1 else values[0]


def _joined(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the descriptions of benchmarks after some were run again, perhaps with other tasks or lengths."""
    merged = {entry["name"]: entry for entry in old}
    for entry in new:
        name, before = entry["name"], merged.get(entry["name"], {"tasks": [], "samples": {}})
        tasks = sorted({*before["tasks"], *entry["tasks"]})
        samples = dict(before["samples"])
        for length, count in entry["samples"].items():
            samples[length] = max(count, samples.get(length, 0))
        merged[name] = entry | {"tasks": tasks, "label": BENCHMARKS[name].label(tasks), "samples": samples}
        if "reads" in entry:
            merged[name]["reads"] = before.get("reads", {}) | entry["reads"]
    return list(merged.values())


def _press(press: PressSpec) -> dict[str, Any]:
    unit = press.entry.ratio_of
    return {"name": press.name, "unit": unit.name if unit else "", "masks": press.strategy.masks}


def _in_folder(name: str) -> str:
    return name.replace("/", "--")


def _device_name(model: PreTrainedModel) -> str:
    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type


def _commit() -> str:
    """Return the checkout's commit, marked if files were changed; empty outside of a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
