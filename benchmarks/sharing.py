"""Savings from sharing one prefill: ten presses at four ratios compared with one press at one ratio.

python -m benchmarks.sharing [--length 1024] [--rounds 5] [--model NAME]
"""

from __future__ import annotations

import statistics
import time

import torch
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.compressors import SourceContext
from evaluation.presses import parse_press
from evaluation.texts import manual
from pikvpress.default_model import load_model
from pikvpress.prompts import token_ids

RATIOS = (0.25, 0.5, 0.75, 0.875)
TEN = (
    "compactor",
    "keydiff",
    "plain_expected_attention",
    "lagkv",
    "snapkv",
    "tova",
    "knorm",
    "adakv_snapkv",
    "expected_attention",
    "moe_router",
)


def seconds(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    context: list[int],
    names: tuple[str, ...],
    ratios: tuple[float, ...],
) -> float:
    """Return the time to prefill once and compress with every press at every ratio."""
    began = time.perf_counter()
    source = SourceContext(model, tokenizer, context, ratios)
    for name in names:
        press = parse_press(name)
        for ratio in ratios:
            press.strategy.compress(press, ratio, source)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main(length: int = 1024, rounds: int = 5, model: str | None = None) -> None:
    """Time both and print the ratio."""
    if rounds < 1:
        raise ValueError(f"at least 1 round is needed, got {rounds}")
    network, tokenizer = load_model(model)
    context = token_ids(tokenizer, manual())[:length]
    seconds(network, tokenizer, context, TEN[:1], RATIOS[:1])  # warms up
    shared: list[float] = []
    single: dict[str, list[float]] = {name: [] for name in TEN}
    for _ in track(range(rounds), "timing", console=Console(stderr=True)):
        shared.append(seconds(network, tokenizer, context, TEN, RATIOS))
        for name in TEN:
            single[name].append(seconds(network, tokenizer, context, (name,), RATIOS[1:2]))
    one = statistics.mean(statistics.median(times) for times in single.values())
    many = statistics.median(shared)
    table = Table(box=SIMPLE, title=f"contexts of {length} tokens, medians of {rounds}, in seconds")
    for heading in ("what", "seconds"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, times in single.items():
        table.add_row(f"{name} at one ratio", f"{statistics.median(times):.2f}")
    table.add_row("10 presses at 4 ratios, one prefill", f"{many:.2f}", style="bold")
    console = Console(width=100)
    console.print(table)
    console.print(f"{many / one:.2f} times one press at one ratio, mean over the ten presses ({one:.2f} s)")


if __name__ == "__main__":
    typer.run(main)
