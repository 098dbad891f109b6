"""What a scheduler costs a generated token: ratios to an unscheduled PiKVCache that holds as much, in paired rounds.

python -m benchmarks.schedulers [--held 4096] [--new 128] [--rounds 3] [--scheduler NAME ...] [--model NAME]

Every scheduler holds (quest: reads) `held` entries a head on average. The cache beside it holds the same number of
entries of each head, kept by StreamingLLM and no longer scheduled, so that only recording, choosing and storing differ.
Each round generates all tokens with both caches in turn, in pieces of 16, so that a slow moment of the machine falls on
both. A number of tokens that is a multiple of 64 has every page that leaves the window in its time.
"""

from __future__ import annotations

import copy
import statistics
import time

import torch
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import PreTrainedModel

from evaluation.texts import manual
from pikvpress import SCHEDULERS, PiKVCache
from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.cache.scheduler import known
from pikvpress.default_model import load_model
from pikvpress.prompts import token_ids

PIECE = 16
STDERR = Console(stderr=True)


def decode(model: PreTrainedModel, cache: PiKVCache, ids: torch.Tensor) -> float:
    """Read given tokens one by one and return the seconds."""
    began = time.perf_counter()
    for token in ids.split(1, dim=1):
        model(input_ids=token, past_key_values=cache)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def filled(model: PreTrainedModel, ids: torch.Tensor, name: str, held: int) -> PiKVCache:
    """Return a cache that has read a text in chunks and is at its ceiling."""
    cache = PiKVCache(scheduler=name, max_tokens=held)
    for chunk in ids.split(512, dim=1):
        model.model(input_ids=chunk, past_key_values=cache)
    return cache


@torch.no_grad()
def main(
    held: int = 4096, new: int = 128, rounds: int = 3, scheduler: list[str] | None = None, model: str | None = None
) -> None:
    """Time every scheduler, or those given, and print a table.

    Raises
    ------
    ValueError
        If there are no rounds, or a scheduler is unknown.
    """
    if rounds < 1:
        raise ValueError(f"medians need at least 1 round, got {rounds}")
    names = [known(name).name for name in scheduler or SCHEDULERS]
    network, tokenizer = load_model(model)
    begin, end = held + PAGE, held + PAGE + new
    ids = torch.tensor([token_ids(tokenizer, manual())[:end]], device=network.device)
    prompt, later = ids[:, :begin], ids[:, begin:]
    plain = filled(network, prompt, "streaming_llm", held)
    plain.schedule(None)
    caches = {name: filled(network, prompt, name, held) for name in track(names, "reading", console=STDERR)}
    ratios: dict[str, list[float]] = {name: [] for name in caches}
    steps = [(round_, name) for round_ in range(rounds + 1) for name in caches]
    for round_, name in track(steps, "decoding", console=STDERR):
        pair, seconds = (copy.deepcopy(caches[name]), copy.deepcopy(plain)), [0.0, 0.0]
        for number, piece in enumerate(later.split(PIECE, dim=1)):
            for place in (number % 2, 1 - number % 2):
                seconds[place] += decode(network, pair[place], piece)
        if round_:  # the first round warms up
            ratios[name].append(seconds[0] / seconds[1])
    table = Table(box=SIMPLE, title=f"{new} tokens at {held} entries a head, medians of {rounds} rounds")
    for heading in ("scheduler", "time of a token, times", "range over rounds", "MiB held"):
        table.add_column(heading, justify="left" if heading == "scheduler" else "right")
    for name, found in ratios.items():
        spread = f"{min(found):.2f} to {max(found):.2f}"
        table.add_row(name, f"{statistics.median(found):.3f}", spread, f"{caches[name].nbytes / 2**20:.1f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)
