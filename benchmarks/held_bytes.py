"""Bytes left by a byte budget: requested, planned, counted by the cache, and seen by the process or the allocator.

python -m benchmarks.held_bytes table [--tokens 16384] [--layers 8]

A cache with the shape of Llama-3.1-8B (8 KV heads of 128) is filled with random numbers layer by layer and packed as by
a `PiKVPress` without gates. Each ratio runs in its own process.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from pathlib import Path

import torch
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from pikvpress import PiKVCache
from pikvpress.budgets.spending import Heads, spend_uniform
from pikvpress.cache import codec

HEADS, HEAD_DIM = 8, 128
RATIOS = (0.5, 0.75, 0.875, 0.9375)

app = typer.Typer(add_completion=False)


@app.command()
def one(ratio: float, tokens: int, layers: int, device: str) -> None:
    """Fill and pack one cache, and print the bytes requested, planned, counted and seen."""
    dtype = torch.float16
    heads = Heads(layers, HEADS, HEAD_DIM, tokens, dtype)
    spending = spend_uniform(heads, ratio, range(layers))
    _packed(heads, 1, ratio, 256, device)  # warm up: first-use allocations do not belong to the cache
    before = _seen(device)
    cache = _packed(heads, layers, ratio, tokens, device)
    after = _seen(device)
    asked = int((1 - ratio) * heads.nbytes * HEADS * layers)
    print(asked, spending.nbytes, cache.nbytes, after - before)


def _packed(heads: Heads, layers: int, ratio: float, tokens: int, device: str) -> PiKVCache:
    spending = spend_uniform(Heads(layers, HEADS, HEAD_DIM, tokens, heads.dtype), ratio, range(layers))
    cache = PiKVCache()
    for index in range(layers):
        keys, values = torch.randn(2, 1, HEADS, tokens, HEAD_DIM, device=device).to(heads.dtype)
        cache.update(keys, values, index)
        kept = torch.zeros(1, HEADS, tokens, dtype=torch.bool, device=device)
        kept[..., : int(spending.counts[index, 0])] = True
        key_codecs, value_codecs = ([codec(pair[side]) for pair in spending.codecs[index]] for side in (0, 1))
        cache.layers[index].pack(kept, key_codecs, value_codecs, window=0)
    return cache


def _seen(device: str) -> int:
    """Return the bytes in use: by CUDA's allocator, or resident in this process after unused memory is released."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Private_Dirty"))) * 1024


@app.command()
def table(tokens: int = 16384, layers: int = 8) -> None:
    """Print the table for all ratios."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shown = Table(
        box=SIMPLE, title=f"{layers} layers of {HEADS} heads of {HEAD_DIM}, {tokens} tokens, float16, {device}"
    )
    for heading in ("ratio", "asked MiB", "planned", "counted", "seen", "seen / planned", "seen / asked"):
        shown.add_column(heading, justify="right")
    for ratio in RATIOS:
        command = [sys.executable, "-m", "benchmarks.held_bytes", "one", str(ratio), str(tokens), str(layers), device]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        asked, planned, counted, seen = map(int, run.stdout.split())
        mib = [f"{value / 2**20:.1f}" for value in (asked, planned, counted, seen)]
        shown.add_row(f"{ratio:g}", *mib, f"{seen / planned:.3f}", f"{seen / asked:.3f}")
    Console(width=110).print(shown)


if __name__ == "__main__":
    app()
