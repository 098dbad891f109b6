"""A complete model of realistic shape with random weights: prefill, peak memory, decoding speed, largest batch.

python -m benchmarks.end_to_end [--tokens 8192 --tokens 32768 --tokens 131072] [--shape llama-3.1-8b]

Only the number of kept entries and their format matter here, so gates are random, for four experts and for heads that
need different numbers of tokens, like fitted gates. Prefills are medians over rounds in which every contender runs
once; decoding is timed after the last one. The largest batch is found by doubling the cache until decoding runs out of
memory.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from kvpress import AdaKVPress, BasePress, SnapKVPress
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, Cache, DynamicCache, LlamaConfig, PreTrainedModel

from benchmarks.decoding import decode
from benchmarks.kernels.__main__ import RESULTS, write
from benchmarks.kernels.machine import describe
from benchmarks.stand_in_gates import write_gates
from pikvpress import MoERouterPress, PiKVCache, PiKVPress, models

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "rope_theta": 500000.0,
        "max_position_embeddings": 131072 + 1024,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "max_position_embeddings": 4096,
    },
}
EXPERTS = ["saliency", "expected_attention", "snapkv", "probe_attention"]
LARGEST_BATCH = 256

Contender = tuple[Callable[[], Cache], Callable[[], BasePress | None]]


def contenders(gates: Path) -> dict[str, Contender]:
    """Return the caches and presses to time; our presses use these gates."""
    return {
        "full cache": (DynamicCache, lambda: None),
        "kvpress AdaKV over SnapKV, 50 % (masked)": (DynamicCache, lambda: AdaKVPress(SnapKVPress(0.5))),
        "MoERouterPress, 50 %": (DynamicCache, lambda: MoERouterPress(0.5, gates=gates)),
        "MoERouterPress, 50 %, fitted budgets, PiKVCache": (PiKVCache, lambda: MoERouterPress(0.5, gates=gates)),
        "AdaKV over MoERouterPress, 50 %, PiKVCache": (PiKVCache, lambda: AdaKVPress(MoERouterPress(0.5, gates=gates))),
        "PiKVPress, 87.5 % of the bytes, PiKVCache": (PiKVCache, lambda: PiKVPress(0.875, gates=gates)),
    }


def make_model(shape: str) -> PreTrainedModel:
    """Return a model of a shape with random weights, in bfloat16 on a GPU."""
    on_gpu = torch.cuda.is_available()
    torch.manual_seed(0)
    with torch.device("cuda" if on_gpu else "cpu"):
        config = LlamaConfig(**SHAPES[shape], pad_token_id=0, eos_token_id=None, bos_token_id=None)
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if on_gpu else torch.float32).eval()


def prefill(model: PreTrainedModel, ids: torch.Tensor, contender: Contender) -> tuple[Cache, float, int]:
    """Return the cache of a context, the seconds of the prefill, and the peak bytes including weights."""
    make_cache, make_press = contender
    _free(model)
    cache, press = make_cache(), make_press()
    began = time.perf_counter()
    with press(model) if press is not None else nullcontext():
        model.model(input_ids=ids, past_key_values=cache)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return cache, seconds, torch.cuda.max_memory_allocated() if model.device.type == "cuda" else 0


def speeds_by_batch(
    model: PreTrainedModel, cache: Cache, token: torch.Tensor, new: int, most: int = LARGEST_BATCH
) -> Iterator[tuple[int, float]]:
    """Yield batches of such contexts, 1, 2, 4 and so on until memory runs out, and the tokens/s of the whole batch.

    Decoding begins with two tokens to warm up. The cache is modified.
    """
    batch = 1
    while batch <= most:
        try:
            if batch > 1:
                _double(model, cache)
            length = int(cache.get_seq_length())
            decode(model, cache, token.expand(batch, -1), length, 2)
            speed = batch * decode(model, cache, token.expand(batch, -1), length + 2, new)
        except torch.OutOfMemoryError:
            return
        yield batch, speed
        batch *= 2


def _double(model: PreTrainedModel, cache: Cache) -> None:
    """Repeat every row of a batch, and what kvpress has masked in it."""
    layers: Any = cache.layers
    for layer in layers:
        if not hasattr(layer, "batch_repeat_interleave"):  # a StaticCache's
            layer.keys, layer.values = (states.repeat_interleave(2, dim=0) for states in (layer.keys, layer.values))
            layer.max_batch_size *= 2
        else:
            layer.batch_repeat_interleave(2)
    for module in models.attention_layers(model):
        masked = getattr(module, "masked_key_indices", None)
        if masked is not None:
            rows, heads, places = masked
            both = torch.cat([2 * rows, 2 * rows + 1])
            module.masked_key_indices = both, heads.repeat(2), places.repeat(2)


def _free(model: PreTrainedModel) -> None:
    for layer in models.attention_layers(model):
        layer.masked_key_indices = None
    gc.collect()
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@torch.no_grad()
def measure(
    model: PreTrainedModel, contenders: dict[str, Contender], tokens: int, new: int, rounds: int
) -> list[dict[str, Any]]:
    """Return a row for every contender."""
    ids = torch.randint(model.config.vocab_size, (1, tokens), device=model.device)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, int] = {}
    speeds: dict[str, float] = {}
    batches: dict[str, int] = {}
    for round_ in range(rounds + 1):  # the first one warms up
        for name, contender in contenders.items():
            try:
                cache, taken, peaks[name] = prefill(model, ids, contender)
                if round_:
                    seconds[name].append(taken)
                if round_ == rounds:
                    most = LARGEST_BATCH if model.device.type == "cuda" else 1
                    for batches[name], speed in speeds_by_batch(model, cache, ids[:, -1:], new, most):
                        speeds.setdefault(name, speed)
                del cache
            except torch.OutOfMemoryError:
                continue
    full = seconds["full cache"]
    return [
        {
            "tokens": tokens,
            "contender": name,
            "prefill_s": statistics.median(taken) if taken else None,
            "prefill_added": statistics.median(a / b - 1 for a, b in zip(taken, full, strict=True)) if taken else None,
            "peak_gib": peaks[name] / 2**30 if peaks.get(name) else None,
            "tokens_per_s": speeds.get(name),
            "largest_batch": batches.get(name) if model.device.type == "cuda" else None,
        }
        for name, taken in seconds.items()
    ]


def main(
    tokens: Annotated[list[int] | None, typer.Option(help="Repeatable. Default: 8192, 32768, 131072.")] = None,
    shape: Annotated[str, typer.Option(help=", ".join(SHAPES))] = "llama-3.1-8b",
    new: int = 32,
    rounds: int = 3,
    output: Annotated[Path | None, typer.Option(help="Default: benchmarks/results/end-to-end.csv")] = None,
) -> None:
    """Measure, print and write a table."""
    if shape not in SHAPES:
        raise typer.BadParameter(f"there is no shape {shape!r}; there are {', '.join(SHAPES)}")
    model = make_model(shape)
    with tempfile.TemporaryDirectory() as folder:
        gates = Path(folder) / "gates.safetensors"
        write_gates(model, EXPERTS, gates)
        timed = contenders(gates)
        rows = [row for count in tokens or (8192, 32768, 131072) for row in measure(model, timed, count, new, rounds)]
    about = describe(model.device.type)
    table = Table(box=SIMPLE, title=f"{shape} with random weights on {about['device']}, medians of {rounds}")
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    for row in rows:
        table.add_row(*("-" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=130).print(table)
    write(output or RESULTS / "end-to-end.csv", [{"shape": shape, **row, **about} for row in rows])


if __name__ == "__main__":
    typer.run(main)
