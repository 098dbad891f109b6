"""A study with made-up results, for tests of reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

RATIOS = [0.25, 0.5, 0.75, 0.9]
LENGTHS = [1024, 2048, 4096]
TASKS = (
    "niah_single_1 niah_single_2 niah_single_3 niah_multikey_1 niah_multikey_2 niah_multivalue "
    "niah_multiquery vt cwe fwe qa"
).split()
# Share of the full cache's score that each press loses at ratio 1, the seconds it takes, and whether it masks.
PRESSES = {
    "moe_router": (0.42, 0.22, False),
    "snapkv": (0.55, 0.12, False),
    "pyramidkv": (0.57, 0.13, False),
    "expected_attention": (0.48, 0.31, False),
    "knorm": (0.85, 0.04, False),
    "streaming_llm": (0.9, 0.01, False),
    "random": (0.98, 0.01, False),
    "tova": (0.62, 0.10, False),
    "keydiff": (0.58, 0.06, False),
    "compactor": (0.46, 0.40, False),
    "adakv_compactor": (0.43, 0.45, True),
    "adakv_snapkv": (0.5, 0.19, True),
    "think": (0.7, 0.15, False),
}
# Half the size of a real study, which would take long to draw.
WRITTEN_RATIOS, WRITTEN_LENGTHS = [0.5, 0.875], [1024, 4096]


def write_study(
    folder: Path,
    presses: list[str] | None = None,
    ratios: list[float] = RATIOS,
    lengths: list[int] = LENGTHS,
    tasks: list[str] = TASKS,
    per_task: int = 8,
    benchmarks: tuple[str, ...] = ("ruler", "fidelity", "needle"),
    **head: Any,
) -> Path:
    """Write a study folder with made-up results that look like real ones."""
    names = presses or list(PRESSES)
    rng = np.random.default_rng(1)
    taste = {(press, task): rng.normal(0, 0.12) for press in names for task in range(12)}
    measures = {
        "ruler": [{"name": "string_match", "label": "score (%)", "higher_is_better": True}],
        "fidelity": [
            {"name": "kl", "label": "KL (nats/token)", "higher_is_better": False},
            {"name": "kl_p95", "label": "KL, 95th percentile (nats/token)", "higher_is_better": False},
            {"name": "top1", "label": "top-1 agreement (%)", "higher_is_better": True},
            {"name": "log_perplexity_ratio", "label": "log perplexity ratio", "higher_is_better": False},
        ],
        "needle": [{"name": "found", "label": "found (%)", "higher_is_better": True}],
    }
    labels = {"ruler": "ruler-11", "fidelity": "fidelity", "needle": "needle"}
    folder.mkdir(parents=True, exist_ok=True)
    study = {
        "command": "python -m evaluation run --benchmark ruler --benchmark fidelity --benchmark needle --seed 0",
        "date": "2026-11-22",
        "model": "Qwen/Qwen3-0.6B",
        "seed": 0,
        "query_aware": False,
        "commit": "f9fdfcf",
        "versions": {
            "pikvpress": "0.1.0",
            "kvpress": "0.5.5",
            "transformers": "5.2.0",
            "torch": "2.13.0",
            "python": "3.11",
        },
        "machine": {"device": "cpu", "dtype": "bfloat16", "cpus": 2},
        "benchmarks": [{"name": n, "label": labels[n], "measures": measures[n]} for n in benchmarks],
        "presses": [
            {"name": n, "unit": "channels" if n == "think" else "tokens", "masks": PRESSES[n][2]} for n in names
        ],
        "ratios": ratios,
        **head,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    for benchmark in benchmarks:
        with (folder / f"samples-{benchmark}.jsonl").open("w") as stream:
            for length in [None] if benchmark == "fidelity" else lengths:
                own = {"ruler": tasks, "fidelity": ["books", "code", "wiki"]}.get(
                    benchmark, [f"depth_{depth:03d}" for depth in range(0, 101, 10)]
                )
                for task_index, task in enumerate(own):
                    for number in range(5 if benchmark == "needle" else per_task):
                        hard = rng.random()
                        for press, ratio in [("no_press", 0.0), *((p, r) for p in names for r in ratios)]:
                            loss, seconds, masks = PRESSES.get(press, (0.0, 0.0, False))
                            loss = max(0.02, loss + taste.get((press, task_index), 0.0)) * (1.1 - 0.1 * ratio)
                            line = _line(rng, benchmark, length, task_index, ratio, loss, hard)
                            tokens = length or 512
                            line |= {
                                "benchmark": benchmark,
                                "length": length,
                                "task": task,
                                "sample": f"{task}-{number}",
                                "press": press,
                                "ratio": ratio,
                                "prediction": "",
                                "context_tokens": tokens,
                                "tokens_kept": tokens * (1 - ratio),
                                "bytes_full": tokens * 1024,
                                "bytes_held": int(tokens * 1024 * (1 if masks else 1 - ratio)),
                                "masked": masks,
                                "prefill_seconds": tokens / 1000,
                                "press_seconds": seconds * tokens / 1000 * (1 + 0.2 * ratio),
                            }
                            stream.write(json.dumps(line) + "\n")
    return folder


def _line(
    rng: np.random.Generator, benchmark: str, length: int | None, task: int, ratio: float, loss: float, hard: float
) -> dict[str, Any]:
    if benchmark == "fidelity":
        tokens = rng.gamma(0.7, 0.02 + 4 * loss * ratio**3, size=40) * (ratio > 0)
        return {
            "measures": {
                "kl": float(tokens.mean()),
                "top1": float(100 * np.exp(-tokens.mean())),
                "log_perplexity_ratio": float(0.6 * tokens.mean() * (0.7 + 0.6 * hard)),
            },
            "token_kl": [round(float(value), 4) for value in tokens],
        }
    chance = (0.97 - 0.03 * task) * (1 - loss * ratio ** (2.2 + 0.1 * task)) - 0.00002 * (length or 0)
    return {
        "measures": {"string_match" if benchmark == "ruler" else "found": 100.0 * (hard < chance + rng.normal(0, 0.03))}
    }


def small_study(folder: Path, **changes: Any) -> Path:
    """Write a study for which a report is created quickly."""
    settings: dict[str, Any] = {
        "presses": ["moe_router", "snapkv", "adakv_compactor", "think"],
        "ratios": [0.25, 0.5],
        "lengths": [512],
        "tasks": ["vt", "cwe"],
        "per_task": 4,
        "benchmarks": ("ruler", "fidelity"),
    }
    return write_study(folder, **(settings | changes))


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)
