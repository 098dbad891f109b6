"""How far predictions from a compressed cache are from those of the full one, on text that the press never saw.

KL divergence in nats per token, over the tokens of a question and its answer or of a text's continuation.

    python -m benchmarks.fidelity [--samples 25] [--tokens 1000] [--seed 0] [--model NAME]
"""

from __future__ import annotations

import statistics
from collections import defaultdict

import typer
from kvpress import BasePress
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.shared_prefill import SharedPrefill
from benchmarks.tasks import KINDS, SampleMaker
from pikvpress import DEFAULT_EXPERTS, MoERouterPress
from pikvpress.default_model import load_model
from pikvpress.experts import make_experts
from pikvpress.routers import ROUTERS

RATIOS = (0.5, 0.75, 0.875)


def contenders() -> dict[str, BasePress]:
    """Return every default expert alone and MoERouterPress with every router, by name.

    By its prior "topk_balanced" is "base": what sets it apart acts while gates are fitted.
    """
    presses: dict[str, BasePress] = {expert.name: expert.press for expert in make_experts(DEFAULT_EXPERTS, None)}
    return presses | {f"router {name}": MoERouterPress(router_type=name) for name in ROUTERS if name != "topk_balanced"}


def measure(samples: int, tokens: int, seed: int, model: str | None) -> dict[tuple[str, str, float], list[float]]:
    """Return the mean KL divergence of every sample, by press, kind and ratio."""
    network, tokenizer = load_model(model)
    maker = SampleMaker(tokenizer, tokens, seed)
    presses = contenders()
    divergences: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    for index in track(range(samples), "comparing", console=Console(stderr=True)):
        sample = maker.make(KINDS[index % len(KINDS)])
        prefill = SharedPrefill(network, sample.context)
        full = prefill.log_probabilities(prefill.cache(None), sample.future)
        for name, press in presses.items():
            for ratio in RATIOS:
                press.compression_ratio = ratio
                compressed = prefill.log_probabilities(prefill.cache(press), sample.future)
                divergence = (full.exp() * (full - compressed)).sum(dim=-1).mean().item()
                divergences[name, sample.kind, ratio].append(divergence)
    return divergences


def main(samples: int = 25, tokens: int = 1000, seed: int = 0, model: str | None = None) -> None:
    """Measure and print the table."""
    if samples < len(KINDS):
        raise ValueError(f"every kind of task is needed: take at least {len(KINDS)} samples, not {samples}")
    divergences = measure(samples, tokens, seed, model)
    mean = {
        (name, ratio): statistics.mean(x for kind in KINDS for x in divergences[name, kind, ratio])
        for name in contenders()
        for ratio in RATIOS
    }
    table = Table(
        box=SIMPLE, title=f"mean KL (nats/token) to the full cache, {samples} contexts of {tokens} tokens, seed {seed}"
    )
    table.add_column("press", no_wrap=True)
    for ratio in RATIOS:
        table.add_column(f"{ratio:.1%}\nevicted", justify="right")
    for kind in KINDS:
        table.add_column(f"{kind}\nat 75%", justify="right")
    for name in contenders():
        by_kind = [f"{statistics.mean(divergences[name, kind, 0.75]):.3f}" for kind in KINDS]
        table.add_row(name, *(f"{mean[name, ratio]:.3f}" for ratio in RATIOS), *by_kind)
    console = Console(width=110)
    console.print(table)
    best = {ratio: min(mean[name, ratio] for name in DEFAULT_EXPERTS) for ratio in RATIOS}
    average = {ratio: statistics.mean(mean[name, ratio] for name in DEFAULT_EXPERTS) for ratio in RATIOS}
    for label, rival in (("best single default expert", best), ("experts' average", average)):
        shares = ", ".join(f"{mean['router pikv', ratio] / rival[ratio]:.2f} at {ratio:.1%}" for ratio in RATIOS)
        console.print(f"router pikv by its prior, relative to the {label}: {shares}")


if __name__ == "__main__":
    typer.run(main)
