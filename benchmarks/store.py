"""Time to the first token from a stored context, against reading it: medians over rounds in which each runs once.

python -m benchmarks.store [--tokens 4096] [--rounds 5] [--model NAME]

Each time, a model answers a question of 16 tokens with one token, after it has read the context or found it in a store
in a temporary folder; the bytes are compared with those of the cache. The file was written in the same process, so that
it is in the system's memory. What is done once per process for each model, the digest of its weights, is timed apart.
"""

from __future__ import annotations

import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import typer
from kvpress import BasePress
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import PreTrainedModel

from evaluation.texts import manual
from pikvpress import FolderStore, PiKVCache, PiKVPress
from pikvpress.default_model import load_model
from pikvpress.model_digest import ModelDigest

QUESTION = 16
HEADINGS = ("context", "read s", "stored s", "share", "range over rounds", "cache MiB", "file MiB", "file / cache")
PRESSES: dict[str, BasePress | None] = {
    "PiKVPress, an eighth of the bytes": PiKVPress(0.875),
    "everything, without a press": None,
}


def first_token(
    model: PreTrainedModel, press: BasePress | None, ids: torch.Tensor, store: FolderStore | None
) -> tuple[float, torch.Tensor]:
    """Return the seconds until the first token after a context and a question, and its logits."""
    length, cache = ids.shape[1] - QUESTION, PiKVCache()
    began = time.perf_counter()
    alone = nullcontext() if press is None else press(model)
    with alone if store is None else store.reading(model, press):
        model.model(input_ids=ids[:, :length], past_key_values=cache)
    positions = torch.arange(length, ids.shape[1], device=ids.device)[None]
    logits = model(ids[:, length:], past_key_values=cache, position_ids=positions, logits_to_keep=1).logits
    logits.argmax().item()
    return time.perf_counter() - began, logits


@torch.no_grad()
def main(tokens: int = 4096, rounds: int = 5, model: str | None = None) -> None:
    """Time both and print it."""
    if rounds < 1:
        raise ValueError(f"at least 1 round is needed, got {rounds}")
    network, tokenizer = load_model(model)
    ids = tokenizer(manual(), return_tensors="pt").input_ids[:, : tokens + QUESTION].to(network.device)
    began = time.perf_counter()
    ModelDigest.of(network)
    digest = time.perf_counter() - began
    table = Table(box=SIMPLE, title=f"first token after {ids.shape[1] - QUESTION} tokens, medians of {rounds}")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "context" else "right")
    for name, press in PRESSES.items():
        with TemporaryDirectory() as folder:
            store, seconds = FolderStore(Path(folder) / "store"), []
            cache = PiKVCache()
            with store.reading(network, press):
                network.model(input_ids=ids[:, :-QUESTION], past_key_values=cache)
            nbytes, size = cache.nbytes, store.nbytes
            first_token(network, press, ids, store)  # warms up
            for _ in track(range(rounds), name, console=Console(stderr=True)):
                read, expected = first_token(network, press, ids, None)
                stored, found = first_token(network, press, ids, store)
                if not torch.equal(found, expected):
                    raise ValueError("logits after a stored context differ from those after reading it")
                seconds.append((read, stored))
        shares = [stored / read for read, stored in seconds]
        read, stored = (statistics.median(one) for one in zip(*seconds, strict=True))
        spread, mib = f"{min(shares):.4f} to {max(shares):.4f}", [f"{one / 2**20:.2f}" for one in (nbytes, size)]
        share = f"{statistics.median(shares):.4f}"
        table.add_row(name, f"{read:.3f}", f"{stored:.4f}", share, spread, *mib, f"{size / nbytes:.4f}")
    console = Console(width=130)
    console.print(table)
    console.print(f"digest of the weights, once per process: {digest:.2f} s")


if __name__ == "__main__":
    typer.run(main)
