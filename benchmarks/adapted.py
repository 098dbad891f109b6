"""What an adapter of `pikvpress adapt` is worth on the contexts of a study, which it has never seen.

python -m benchmarks.adapted ADAPTER [--study evaluation/studies/bytes-fidelity.yaml] [--ratio 0.96875] [--samples 6]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from peft import PeftModel
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from evaluation.report.statistics import bootstrap_means
from evaluation.study import make_study, read_study, with_options
from evaluation.units import make_units
from pikvpress import PiKVPress
from pikvpress.adaptation.gains import Gains, measure
from pikvpress.calibration.data.situations import Situation
from pikvpress.default_model import load_model

RATIOS = (0.9375, 0.96875, 0.984375)


def contexts(study: Path, samples: int | None, tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], list[Situation]]:
    """Return the tasks and the contexts of a study of fidelity, each with its questions and answers.

    Raises
    ------
    ValueError
        If a benchmark of the study has no text that follows its contexts.
    """
    chosen = make_study(with_options(read_study(study), {} if samples is None else {"samples": samples}))
    if not all(benchmark.benchmark.teacher_forced for benchmark in chosen.benchmarks):
        raise ValueError(f"{study} has benchmarks of answers: use one of the fidelity benchmark")
    units = make_units(chosen, tokenizer, None)
    made = [
        Situation(unit.samples[0].row.task, unit.context, tuple((*one.question, *one.answer) for one in unit.samples))
        for unit in units
    ]
    return [situation.kind for situation in made], made


def interval(gains: Gains, press: int, tasks: list[str]) -> tuple[float, float]:
    """Return the 95 % interval of a press's share, over paired bootstrap samples."""
    means = bootstrap_means(np.stack([gains.after[press].numpy(), gains.before[press].numpy()], axis=1), tasks)
    low, high = np.percentile(means[:, 0] / means[:, 1], [2.5, 97.5])
    return float(low), float(high)


def main(
    adapter: Path,
    study: Path = Path("evaluation/studies/bytes-fidelity.yaml"),
    ratio: Annotated[list[float] | None, typer.Option(help="Of PiKVPress; repeatable.")] = None,
    samples: int | None = None,
    model: str | None = None,
) -> None:
    """Measure predictions from compressed caches without and with the adapter, and print their divergence."""
    network, tokenizer = load_model(model)
    tasks, situations = contexts(study, samples, tokenizer)
    presses = [PiKVPress(one) for one in ratio or RATIOS]
    adapted = PeftModel.from_pretrained(network, str(adapter)).eval()
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("reading", total=len(situations))
        found = measure(adapted, situations, presses, lambda: bar.advance(task))
    table = Table(box=SIMPLE, title=f"mean KL to the full cache (nats/token), {len(situations)} contexts")
    for heading in ("bytes left", "without", "with the adapter", "share", "95 % interval"):
        table.add_column(heading, justify="right")
    for index, press in enumerate(presses):
        low, high = interval(found, index, tasks)
        before, after = float(found.before[index].mean()), float(found.after[index].mean())
        left = f"1/{1 / (1 - press.compression_ratio):.0f}"
        table.add_row(left, f"{before:.4f}", f"{after:.4f}", f"{after / before:.2f}", f"{low:.2f} to {high:.2f}")
    console = Console(width=100)
    console.print(table)
    console.print(f"perplexity with the full cache: {found.perplexity_ratio:.4f} times the model's")
    of_kind = torch.tensor([tasks.index(task) for task in tasks])
    worst = max(
        (float(found.after[:, of_kind == kind].sum() / found.before[:, of_kind == kind].sum()), tasks[kind])
        for kind in set(of_kind.tolist())
    )
    console.print(f"worst task: {worst[1]}, {worst[0]:.2f} times")


if __name__ == "__main__":
    typer.run(main)
