"""Time that presses add to a prefill: medians over rounds in which every press runs once, so drift affects all equally.

python -m benchmarks.prefill_cost [--tokens 4096] [--rounds 5] [--press MoERouterPress] [--model NAME]
"""

from __future__ import annotations

import statistics
import time
from contextlib import nullcontext
from typing import Annotated

import torch
import typer
from kvpress import BasePress
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import DynamicCache

from evaluation.texts import manual
from pikvpress import MoERouterPress, PiKVCache, PiKVPress, available_experts
from pikvpress.default_model import load_model
from pikvpress.experts import make_experts

BYTES_RATIO = 0.875  # of PiKVPress


def contenders(ratio: float) -> dict[str, BasePress | None]:
    """Return the presses to time: none, every expert alone, MoERouterPress, and PiKVPress at an eighth of the bytes."""
    presses: dict[str, BasePress | None] = {"no press": None}
    for name in available_experts():
        press = make_experts([name], None)[0].press
        press.compression_ratio = ratio
        presses[name] = press
    presses["MoERouterPress"] = MoERouterPress(ratio)
    presses["PiKVPress"] = PiKVPress(BYTES_RATIO)
    presses["PiKVPress, not refitted"] = PiKVPress(BYTES_RATIO, refit=False)
    return presses


def main(
    tokens: int = 4096,
    rounds: int = 5,
    ratio: float = 0.5,
    model: str | None = None,
    press: Annotated[list[str] | None, typer.Option(help="Only this press; repeatable.")] = None,
) -> None:
    """Time the prefill with each press and print the overhead."""
    presses = contenders(ratio)
    unknown = set(press or ()) - set(presses)
    if unknown:
        raise typer.BadParameter(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(presses)}")
    if press:
        presses = {name: one for name, one in presses.items() if one is None or name in press}
    network, tokenizer = load_model(model)
    ids = tokenizer(manual(), return_tensors="pt").input_ids[:, :tokens].to(network.device)
    seconds: dict[str, list[float]] = {name: [] for name in presses}
    steps = [(round_, name) for round_ in range(rounds + 1) for name in presses]
    for round_, name in track(steps, "prefilling", console=Console(stderr=True)):
        used = presses[name]
        began = time.perf_counter()
        with torch.no_grad(), used(network) if used is not None else nullcontext():
            cache = PiKVCache() if isinstance(used, PiKVPress) else DynamicCache()
            network.model(input_ids=ids, past_key_values=cache)
            if network.device.type == "cuda":
                torch.cuda.synchronize()
        if round_:  # the first round warms up
            seconds[name].append(time.perf_counter() - began)
    table = Table(box=SIMPLE, title=f"prefill of {ids.shape[1]} tokens, ratio {ratio:g}, medians of {rounds}")
    for heading in ("press", "seconds", "added", "range over rounds"):
        table.add_column(heading, justify="left" if heading == "press" else "right")
    for name, times in seconds.items():
        added = [time_ / base - 1 for time_, base in zip(times, seconds["no press"], strict=True)]
        spread = f"{min(added):+.0%} to {max(added):+.0%}"
        table.add_row(name, f"{statistics.median(times):.2f}", f"{statistics.median(added):+.1%}", spread)
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
