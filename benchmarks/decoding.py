"""Decoding speed after a long context, by cache: medians over rounds in which every cache runs once.

python -m benchmarks.decoding [--tokens 4096] [--new 32] [--rounds 5] [--model NAME]

Also the time to pack a layer at 4 bits, as a share of the layer's part of the prefill.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import typer
from kvpress import AdaKVPress, BasePress, KnormPress
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import Cache, DynamicCache, PreTrainedModel

from evaluation.texts import manual
from pikvpress import PiKVCache, PiKVPress, models
from pikvpress.cache import codec
from pikvpress.default_model import load_model
from pikvpress.memory import cache_bytes


@dataclass(frozen=True)
class Contender:
    """A way to hold a context.

    Parameters
    ----------
    cache : callable
        Creates an empty cache.
    press : BasePress, optional
        Compresses during the prefill.
    beside : str, optional
        Contender to which the speed in the table is relative.
    """

    cache: Callable[[], Cache]
    press: BasePress | None = None
    beside: str = "DynamicCache"


CONTENDERS = {
    "DynamicCache": Contender(DynamicCache),
    "PiKVCache": Contender(PiKVCache),
    "DynamicCache, Knorm 50 %": Contender(DynamicCache, KnormPress(0.5)),
    "PiKVCache, Knorm 50 %": Contender(PiKVCache, KnormPress(0.5), "DynamicCache, Knorm 50 %"),
    "DynamicCache, AdaKV 50 % (masked)": Contender(DynamicCache, AdaKVPress(KnormPress(0.5))),
    "PiKVCache, AdaKV 50 % (gone)": Contender(
        PiKVCache, AdaKVPress(KnormPress(0.5)), "DynamicCache, AdaKV 50 % (masked)"
    ),
    "PiKVCache, PiKVPress 87.5 % of the bytes": Contender(PiKVCache, PiKVPress(0.875)),
}


def decode(model: PreTrainedModel, cache: Cache, first: torch.Tensor, start: int, new: int) -> float:
    """Decode tokens greedily and return the number per second."""
    token = first
    began = time.perf_counter()
    for step in range(new):
        position = torch.full_like(token, start + step)
        token = model(input_ids=token, past_key_values=cache, position_ids=position).logits[:, -1:].argmax(dim=-1)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return new / (time.perf_counter() - began)


def packing_share(model: PreTrainedModel, ids: torch.Tensor, rounds: int) -> float:
    """Return the time to pack one layer at 4 bits, relative to a layer's part of the prefill."""
    shares = []
    for _ in range(rounds):
        cache = PiKVCache()
        began = time.perf_counter()
        model.model(input_ids=ids, past_key_values=cache)
        prefill = (time.perf_counter() - began) / len(models.attention_layers(model))
        layer = cache.layers[0]
        kept = torch.ones(layer.keys.shape[:3], dtype=torch.bool, device=model.device)
        codecs = [codec("int4")] * kept.shape[1]
        began = time.perf_counter()
        layer.pack(kept, codecs, codecs, window=0)
        shares.append((time.perf_counter() - began) / prefill)
    return statistics.median(shares)


@torch.no_grad()
def main(tokens: int = 4096, new: int = 32, rounds: int = 5, model: str | None = None) -> None:
    """Time decoding and print it."""
    network, tokenizer = load_model(model)
    ids = tokenizer(manual(), return_tensors="pt").input_ids[:, :tokens].to(network.device)
    speeds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    held: dict[str, int] = {}
    steps = [(round_, name) for round_ in range(rounds + 1) for name in CONTENDERS]
    for round_, name in track(steps, "decoding", console=Console(stderr=True)):
        contender = CONTENDERS[name]
        cache = contender.cache()
        with contender.press(network) if contender.press is not None else nullcontext():
            network.model(input_ids=ids, past_key_values=cache)
        if isinstance(cache, PiKVCache):
            cache.settle()
        held[name] = cache.nbytes if isinstance(cache, PiKVCache) else cache_bytes(cache)
        speed = decode(network, cache, ids[:, -1:], ids.shape[1], new)
        for layer in models.attention_layers(network):
            layer.masked_key_indices = None
        if round_:  # the first round warms up
            speeds[name].append(speed)
    table = Table(box=SIMPLE, title=f"decoding {new} tokens after {ids.shape[1]}, medians of {rounds}")
    for heading in ("cache", "MiB held", "tokens/s", "times", "of", "range over rounds"):
        table.add_column(heading, justify="left" if heading in ("cache", "of") else "right")
    for name, contender in CONTENDERS.items():
        times = [mine / other for mine, other in zip(speeds[name], speeds[contender.beside], strict=True)]
        spread = f"{min(times):.2f} to {max(times):.2f}"
        speed = statistics.median(speeds[name])
        table.add_row(
            name,
            f"{held[name] / 2**20:.1f}",
            f"{speed:.1f}",
            f"{statistics.median(times):.2f}",
            contender.beside,
            spread,
        )
    console = Console(width=130)
    console.print(table)
    console.print(f"packing a layer at 4 bits: {packing_share(network, ids, rounds):.1%} of its part of the prefill")


if __name__ == "__main__":
    typer.run(main)
