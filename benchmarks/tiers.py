"""A cache on tiers: bytes by tier, memory that the process takes, and speed with and without prefetching.

python -m benchmarks.tiers table [--tokens 8192] [--layers 8] [--new 8] [--rounds 3]

A random Llama (8 KV heads of 64, hidden size 1024, few words) decodes greedily after a cache of random numbers in
float32, which is filled layer by layer: a prefill would take long on a CPU and is the same in all rows. Each row is a
process of its own, and those of a codec must end with the same token. "in use" is what is resident after the last
token, and "peak" the most at any time, both less what is resident with the model and an empty cache. Resident memory
counts pages of mapped files while the process reads them; the system's cache of files, which it gives back when memory
is short, does not count. Files were written just before, so they are read from that cache unless it is too small:
these are not times of a drive.

transformers' own offloading (`DynamicCache(offloading=True)`) keeps layers in the host's memory and one or two on the
GPU. It needs a GPU; without one, its row says so. It holds everything exactly, and knows no files.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, Cache, DynamicCache, LlamaConfig, PreTrainedModel

from pikvpress import PiKVCache
from pikvpress.cache import Tiers, codec

HEADS, HEAD_DIM = 8, 64
QUARTER = {"device": 0.25, "file": 0.75}
HOST = {"device": 0.25, "host": 0.75}
CONTENDERS: dict[str, dict[str, Any]] = {
    "exact, all on the device": {},
    "exact, 25 % device, 75 % file": {"shares": QUARTER},
    "exact, 25 % device, 75 % file, no prefetch": {"shares": QUARTER, "prefetch": False},
    "int4, all on the device": {"codec": "int4"},
    "int4, 25 % device, 75 % file": {"codec": "int4", "shares": QUARTER},
    "int4, 25 % device, 75 % file, no prefetch": {"codec": "int4", "shares": QUARTER, "prefetch": False},
    "exact, 25 % device, 75 % host": {"shares": HOST},
    "DynamicCache(offloading=True)": {"offloading": True},
}
HEADINGS = ("cache", "device MiB", "host MiB", "file MiB", "in use MiB", "peak MiB", "tokens/s", "range over rounds")

app = typer.Typer(add_completion=False)


def make_model(layers: int, device: str) -> PreTrainedModel:
    """Return a random model."""
    sizes: dict[str, Any] = {"hidden_size": 16 * HEAD_DIM, "num_attention_heads": 16, "num_key_value_heads": HEADS}
    sizes |= {"intermediate_size": 64 * HEAD_DIM, "num_hidden_layers": layers, "vocab_size": 1024}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(**sizes, max_position_embeddings=2**20)).eval().to(device)


def make_cache(settings: dict[str, Any], folder: str) -> Cache:
    """Return an empty cache."""
    if settings.get("offloading"):
        return DynamicCache(offloading=True)
    shares = settings.get("shares")
    return PiKVCache(tiers=shares and Tiers(shares, folder=folder, prefetch=settings.get("prefetch", True)))


def fill(cache: Cache, layers: int, tokens: int, codec_name: str, device: str) -> None:
    """Fill a cache layer by layer, as a prefill does."""
    torch.manual_seed(1)
    for index in range(layers):
        keys, values = torch.randn(2, 1, HEADS, tokens, HEAD_DIM, device=device)
        cache.update(keys, values, index)
        if isinstance(cache, PiKVCache):
            cache.layers[index].depth = layers
            if codec_name != "exact":
                kept = torch.ones(1, HEADS, tokens, dtype=torch.bool, device=device)
                codecs = [codec(codec_name)] * HEADS
                cache.layers[index].pack(kept, codecs, codecs, window=0)


class Watch:
    """The memory of this process above what it was at first, in bytes: its peak, looked at every 2 ms."""

    def __init__(self, device: str):
        self._device, self._done = device, threading.Event()
        self._first = self.peak = self.now()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def now(self) -> int:
        """Return the bytes in use: by CUDA's allocator, or resident after unused memory was given back."""
        gc.collect()
        if self._device == "cuda":
            torch.cuda.synchronize()
            return torch.cuda.memory_allocated()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        return self._resident()

    def stop(self) -> tuple[int, int]:
        """Return the bytes now and at most, above those at first."""
        self._done.set()
        self._thread.join()
        peak = torch.cuda.max_memory_allocated() if self._device == "cuda" else self.peak
        return self.now() - self._first, peak - self._first

    def _resident(self) -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _look(self) -> None:
        while not self._done.wait(0.002):
            self.peak = max(self.peak, self._resident())


@app.command()
@torch.no_grad()
def one(name: str, tokens: int, layers: int, new: int, rounds: int) -> None:
    """Measure one cache, and print the results as JSON."""
    settings, device = CONTENDERS[name], "cuda" if torch.cuda.is_available() else "cpu"
    if settings.get("offloading") and device == "cpu":
        print(json.dumps({"why": "needs a GPU, not compared"}))
        return
    model = make_model(layers, device)
    with TemporaryDirectory() as folder:
        _decode(model, make_cache({}, folder), 64, 2)  # warms up: first-use allocations do not belong to the cache
        watch, cache, speeds = Watch(device), make_cache(settings, folder), []
        fill(cache, layers, tokens, settings.get("codec", "exact"), device)
        for number in range(rounds + 1):
            speed, last = _decode(model, cache, tokens + number * new, new)
            speeds.append(speed)
        in_use, peak = watch.stop()
        by_tier = cache.tier_bytes() if isinstance(cache, PiKVCache) else {}
        print(json.dumps({"tiers": by_tier, "in_use": in_use, "peak": peak, "speeds": speeds[1:], "last": last}))
        del cache


def _decode(model: PreTrainedModel, cache: Cache, start: int, new: int) -> tuple[float, int]:
    """Decode tokens, and return how many in a second, and the last one."""
    token = torch.ones(1, 1, dtype=torch.long, device=model.device)
    began = time.perf_counter()
    for step in range(new):
        position = torch.full_like(token, start + step)
        token = model(input_ids=token, past_key_values=cache, position_ids=position).logits[:, -1:].argmax(dim=-1)
    last = int(token)
    return new / (time.perf_counter() - began), last


@app.command()
def table(tokens: int = 8192, layers: int = 8, new: int = 8, rounds: int = 3) -> None:
    """Print the table for all caches."""
    if rounds < 1:
        raise ValueError(f"at least 1 round is needed, got {rounds}")
    shown = Table(box=SIMPLE, title=f"{layers} layers of {HEADS} heads of {HEAD_DIM}, {tokens} entries, {new} tokens")
    for heading in HEADINGS:
        shown.add_column(heading, justify="left" if heading == "cache" else "right")
    last: dict[str, int] = {}
    for name in CONTENDERS:
        command = [sys.executable, "-m", "benchmarks.tiers", "one", name, *map(str, (tokens, layers, new, rounds))]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(f"{name}: {run.stderr}")
        found = json.loads(run.stdout.splitlines()[-1])
        if "why" in found:
            shown.add_row(name, *[""] * 6, found["why"])
            continue
        kind = name.split(",")[0]
        if last.setdefault(kind, found["last"]) != found["last"]:
            raise ValueError(f"{name} ends with another token than without tiers")
        sizes = [found["tiers"].get(tier, 0) for tier in ("device", "host", "file")]
        cells = [f"{size / 2**20:.0f}" for size in (*sizes, found["in_use"], found["peak"])]
        speeds = found["speeds"]
        spread = f"{min(speeds):.2f} to {max(speeds):.2f}"
        shown.add_row(name, *cells, f"{statistics.median(speeds):.2f}", spread)
    Console(width=140).print(shown)


if __name__ == "__main__":
    app()
