"""Does it help to know which experts of a mixture-of-experts model read a token, when its keys are to be removed?

python -m benchmarks.router_signal FOLDER [--contexts 32] [--held-out 20] [--length 1024] [--seed 0]

FOLDER holds a mixture of experts, such as one of `benchmarks.moefied`. The saliency of keys is fitted by ridge
regression, as `pikvpress calibrate` does before its gradient descent, from the usual features, from these and those of
the model's own router, and, as a control, from these and router features of other tokens of the same context. The cost
of selecting keys by each is measured on contexts of held-out texts.

A press removes keys after a layer's attention, when the layer's own router has not run yet: the features of a layer are
those of the router before it. They are the entropy of its probabilities, and which experts it chose.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from transformers import PreTrainedModel

from evaluation.report.statistics import bootstrap_means
from pikvpress import models, moe
from pikvpress.calibration import Recipe
from pikvpress.calibration.data.situations import Situation, make_situations
from pikvpress.calibration.data.texts import shipped_texts, split
from pikvpress.calibration.fit.saliency import SaliencyRegression, equal_costs, features_of, saliency_target
from pikvpress.calibration.measure.collect import collect
from pikvpress.calibration.measure.record import LayerRecord, Record, described, save
from pikvpress.default_model import load_model
from pikvpress.saliency_features import num_features
from pikvpress.support.command_line import told

BASES, ADDED = ("entries", "entries and hidden states"), ("", " + router", " + shuffled router")
SETS = tuple(base + added for base, added in product(BASES, ADDED))
# A layer's index, its measurements, and its features, those of all sets side by side.
Layers = Iterator[tuple[int, LayerRecord, torch.Tensor]]


def router_features(choice: moe.ExpertChoice) -> torch.Tensor:
    """Return the entropy of a router's probabilities, standardised, and which experts it chose.

    Parameters
    ----------
    choice : ExpertChoice
        The choice for the tokens of one context.

    Returns
    -------
    torch.Tensor
        float32, on the CPU, shape (tokens, 1 + experts).
    """
    # Entropies of nearly equal probabilities differ by less than float32 can tell.
    logits = choice.logits.double().cpu()
    entropy = moe.ExpertChoice(logits, choice.per_token).entropy
    entropy = (entropy - entropy.mean()) / entropy.std().clamp_min(1e-15)
    chosen = torch.zeros_like(logits).scatter_(1, choice.chosen.cpu(), 1.0)
    return torch.cat([entropy.unsqueeze(1), chosen], dim=1).float()


@dataclass(frozen=True)
class Measuring:
    """Measurements of contexts with a mixture of experts.

    Parameters
    ----------
    model : PreTrainedModel
        The model, which is restored after each context.
    recipe : Recipe
        The numbers of a calibration.
    seed : int
        Random seed of sampled labels, and of the control.
    """

    model: PreTrainedModel
    recipe: Recipe
    seed: int

    def columns(self) -> dict[str, list[int]]:
        """Return the columns of each set of features."""
        config = models.attention_layers(self.model)[0]
        entries, hidden = num_features(config.head_dim), self.model.config.get_text_config().hidden_size
        (router, *_) = moe.routers_of(self.model).values()
        size = 1 + len(router.weight)  # type: ignore[arg-type]
        first, found = entries + hidden, {}
        for base, count in zip(BASES, (entries, first), strict=True):
            for number, added in enumerate(ADDED):
                begin = first + size * (number - 1)
                found[base + added] = [*range(count), *(range(begin, begin + size) if number else ())]
        return found

    @contextmanager
    def layers(self, situation: Situation, number: int) -> Iterator[Layers]:
        """Measure a context, and yield its layers. The measurements are in a file as long as they are read."""
        seen: dict[int, moe.ExpertChoice] = {}

        def keep(layer: int, choice: moe.ExpertChoice) -> None:
            seen.setdefault(layer, choice)  # the context is read first, and its futures afterwards

        with TemporaryDirectory() as folder:
            path = Path(folder) / "context.safetensors"
            with moe.choices_seen(self.model, keep):
                tensors = collect(self.model, situation, self.recipe.gradient_samples, self.seed + number)
            scaling = [layer.scaling for layer in models.attention_layers(self.model)]
            save(path, tensors, **described(situation.kind, scaling, 0.0))
            routers = {index: router_features(choice) for index, choice in seen.items()}
            yield self._with_features(Record(path), routers, number)

    def _with_features(self, record: Record, routers: dict[int, torch.Tensor], number: int) -> Layers:
        generator = torch.Generator().manual_seed(self.seed + number)
        with features_of(self.model) as features:
            for index in record.layers:
                layer = record.layer(index)
                before = [known for known in routers if known < index]
                of_router = routers[max(before)] if before else torch.zeros_like(next(iter(routers.values())))
                shuffled = of_router[torch.randperm(len(of_router), generator=generator)]
                found = features(index, record, layer)
                added = torch.cat([of_router, shuffled], dim=1).expand(len(found), -1, -1)
                yield index, layer, torch.cat([found, added], dim=-1)


@torch.no_grad()
def compared(measuring: Measuring, fit: Sequence[Situation], held: Sequence[Situation], done: Callable) -> np.ndarray:
    """Fit saliency from each set of features, and measure selections by it.

    Parameters
    ----------
    measuring : Measuring
        The model.
    fit, held : sequence of Situation
        Contexts to fit on, and to measure on.
    done : callable
        Called after each context.

    Returns
    -------
    ndarray
        Predicted divergence of each held-out context, in nats summed over layers and its futures' tokens, shape
        (contexts, sets, ratios).
    """
    recipe, regressions = measuring.recipe, dict[int, SaliencyRegression]()
    for number, situation in enumerate(fit):
        with measuring.layers(situation, number) as layers:
            for index, layer, features in layers:
                one = regressions.setdefault(index, SaliencyRegression())
                one.add(features, saliency_target(layer, recipe.floor))
        done()
    columns = measuring.columns()
    weights = {
        (name, index): one.solved(recipe.ridge, of_set).weights.unsqueeze(-1)
        for name, of_set in columns.items()
        for index, one in regressions.items()
    }
    costs = torch.zeros(len(held), len(SETS), len(recipe.saliency_ratios))
    for number, situation in enumerate(held):
        with measuring.layers(situation, len(fit) + number) as layers:
            for index, layer, features in layers:
                for row, (name, of_set) in enumerate(columns.items()):
                    scores = (features[..., of_set] @ weights[name, index]).squeeze(-1)
                    costs[number, row] += equal_costs(layer, scores, recipe)
        done()
    return costs.double().numpy()


def table_of(costs: np.ndarray, kinds: Sequence[str], ratios: Sequence[float]) -> Table:
    """Return a table of mean costs, and of their change by the router's features with paired 95 % intervals."""
    table = Table(title=f"nats lost in {len(costs)} held-out contexts; change by the router, with 95 % intervals")
    table.add_column("features")
    for ratio in (*ratios, "mean change"):
        table.add_column(str(ratio), justify="right")
    drawn = bootstrap_means(costs.reshape(len(costs), -1), kinds).reshape(-1, *costs.shape[1:])
    means = costs.mean(axis=0)
    for row, name in enumerate(SETS):
        base = row - row % len(ADDED)
        cells = [f"{mean:.4f}" for mean in means[row]]
        if row == base:
            table.add_row(name, *cells, "")
            continue
        changes, resampled = means[row] / means[base] - 1, drawn[:, row] / drawn[:, base] - 1
        changes, resampled = np.append(changes, changes.mean()), np.c_[resampled, resampled.mean(axis=1)]
        low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
        spans = [f"{c:+.1%}\n({a:+.1%} to {b:+.1%})" for c, a, b in zip(changes, low, high, strict=True)]
        table.add_row(name, *map("{}\n{}".format, cells, spans), spans[-1], end_section=row % len(ADDED) == 2)
    return table


def main(folder: Path, contexts: int = 32, held_out: int = 20, length: int = Recipe.length, seed: int = 0) -> None:
    """Print what the router's features change."""
    with told():
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}: make one with `python -m benchmarks.moefied make`")
        model, tokenizer = load_model(str(folder))
        if not moe.routers_of(model):
            raise ValueError(f"{folder} holds no mixture of experts: name one with a router in its layers")
        recipe = Recipe(length=length)
        texts = split(shipped_texts(), recipe.held_out_documents)
        make = partial(make_situations, tokenizer, recipe=recipe)
        fit, held = make(texts[0], contexts, seed=seed), make(texts[1], held_out, seed=seed + 1)
    began = time.perf_counter()
    with Progress() as progress:
        task = progress.add_task("measuring contexts", total=len(fit) + len(held))
        costs = compared(Measuring(model, recipe, seed), fit, held, lambda: progress.advance(task))
    console = Console(width=180)
    console.print(table_of(costs, [situation.kind for situation in held], recipe.saliency_ratios))
    console.print(f"fitted on {len(fit)} contexts of {length} tokens, in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    typer.run(main)
