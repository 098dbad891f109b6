"""Fitting the saliency expert: first to the value of each key, then to the cost of its selections."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from kvpress.utils import compute_n_kept
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.calibration.fit.loop import Pace, descend
from pikvpress.calibration.measure.cost import removal_costs, selection_cost
from pikvpress.calibration.measure.record import LayerRecord, Record
from pikvpress.calibration.measure.selection import kept_keys
from pikvpress.calibration.recipe import Recipe
from pikvpress.calibration.steps import Progress
from pikvpress.saliency_features import hidden_features, num_features, positions_of, saliency_features

Features = Callable[[int, Record, LayerRecord], torch.Tensor]
Weights = dict[int, torch.Tensor]
STEP = "fitting saliency"
ENTRIES, HIDDEN = "entries", "hidden states"


@dataclass(frozen=True)
class FittedSaliency:
    """Weights of `SaliencyScorer`, float32, 0 for layers that are not compressed.

    Parameters
    ----------
    weights : torch.Tensor
        Shape (layers, kv_heads, features).
    hidden_weights : torch.Tensor, optional
        Shape (layers, kv_heads, features + hidden size); None if hidden states did not help.
    """

    weights: torch.Tensor
    hidden_weights: torch.Tensor | None


def fit_saliency(
    model: PreTrainedModel, records: Sequence[Record], held: Sequence[Record], recipe: Recipe, progress: Progress
) -> tuple[FittedSaliency, dict[str, object]]:
    """Fit the weights of `SaliencyScorer` to records.

    Weights come from a ridge regression on the logarithm of the saliency, then from gradient descent on the cost of
    selecting the best keys at equal budgets, at all ratios. Held-out records decide whether the descent is kept, and
    whether hidden states are used.

    Parameters
    ----------
    model : PreTrainedModel
        The model that the records belong to; restored at the end.
    records, held : sequence of Record
        Records to fit on, and for validation.
    recipe : Recipe
        The numbers of the fit.
    progress : callable
        Called after every visit of a record.

    Returns
    -------
    (FittedSaliency, dict)
        The weights; and the predicted divergence on held-out records, by `Recipe.saliency_ratios`, of each step with
        the entries alone and with hidden states, with the names of those that are kept.
    """
    layers = models.attention_layers(model)
    size = num_features(layers[0].head_dim)
    with torch.no_grad(), features_of(model) as features:
        fitting = _Fitting(features, recipe, progress)
        regressions = fitting.regressed(records)
        start = {name: _solved(regressions, recipe.ridge, first) for name, first in ((ENTRIES, size), (HIDDEN, None))}
        steps = {name: {index: layer.weights for index, layer in layers.items()} for name, layers in start.items()}
        for name, weights in fitting.descended(start, records).items():
            steps[f"{name}, descended"] = weights
        found = {
            name: torch.stack([*layers.values()]).sum(dim=0) for name, layers in fitting.predicted(steps, held).items()
        }
    relative = {name: float((found[name] / found[ENTRIES].clamp_min(1e-12)).mean()) for name in found}
    alone, best = (min(names, key=relative.__getitem__) for names in ([ENTRIES, f"{ENTRIES}, descended"], relative))
    hidden = None if best.startswith(ENTRIES) else _whole(steps[best], len(layers))
    figures: dict[str, object] = {"kept": list(dict.fromkeys([alone, best])), "ratios": list(recipe.saliency_ratios)}
    figures["predicted_divergence"] = {name: value.tolist() for name, value in found.items()}
    return FittedSaliency(_whole(steps[alone], len(layers)), hidden), figures


def _whole(weights: Weights, layers: int) -> torch.Tensor:
    """Return the weights of all layers, 0 for those without."""
    none = torch.zeros_like(next(iter(weights.values())))
    return torch.stack([weights.get(index, none) for index in range(layers)])


def saliency_target(layer: LayerRecord, floor: float) -> torch.Tensor:
    """Return what is regressed on, shape (kv_heads, keys).

    It is the logarithm of the cost of removing a key, relative to the mean over the head's keys, plus `floor`.
    """
    worth = removal_costs(layer.reading)
    return (worth / worth.mean(dim=1, keepdim=True).clamp_min(1e-30) + floor).log()


def equal_costs(layer: LayerRecord, scores: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Return the predicted divergence if every head keeps as many keys, those with the highest scores.

    Parameters
    ----------
    layer : LayerRecord
        A layer of a measured context.
    scores : torch.Tensor
        Shape (kv_heads, keys); gradients flow to them.
    recipe : Recipe
        Defines the ratios, and the softness of the selection for gradients.

    Returns
    -------
    torch.Tensor
        In nats summed over the futures' tokens, at each of `Recipe.saliency_ratios`, shape (ratios,).
    """
    costs = []
    for ratio in recipe.saliency_ratios:
        counts = torch.full((len(scores),), compute_n_kept(layer.num_keys, ratio))
        kept = kept_keys(scores, counts, recipe.softness_of_saliency)
        costs.append(selection_cost(layer.reading, kept).sum())
    return torch.stack(costs)


@contextmanager
def features_of(model: PreTrainedModel) -> Iterator[Features]:
    """Yield a function that returns the features of a layer of a record, those of hidden states last.

    Their shape is (kv_heads, keys, features + hidden size).
    """
    layers = models.attention_layers(model)

    def features(index: int, record: Record, layer: LayerRecord) -> torch.Tensor:
        keys = layer.keys.unsqueeze(0).to(model.device)
        cos, sin = positions_of(layers[index], keys, {})
        of_states = saliency_features(keys.cpu(), layer.reading.values.unsqueeze(0), cos.cpu(), sin.cpu())[0]
        of_hidden = hidden_features(record.hidden(index)).expand(len(of_states), -1, -1)
        return torch.cat([of_states, of_hidden], dim=-1)

    with models.rotary_at_hand(model):
        yield features


@dataclass(frozen=True)
class SaliencyFit:
    """Weights (kv_heads, features), and standard deviations of the features and of the scores (kv_heads, 1)."""

    weights: torch.Tensor
    spread: torch.Tensor
    size: torch.Tensor


class SaliencyRegression:
    """Ridge regression for one layer's heads, with features and target centred in each context."""

    def __init__(self) -> None:
        self._count = 0
        self._products: torch.Tensor | float = 0.0
        self._with_target: torch.Tensor | float = 0.0

    def add(self, features: torch.Tensor, target: torch.Tensor) -> None:
        """Add a context: features (kv_heads, keys, features), target (kv_heads, keys)."""
        features = features - features.mean(dim=1, keepdim=True)
        self._count += features.shape[1]
        self._products = self._products + (features.mT @ features).double()
        self._with_target = self._with_target + (features.mT @ target.unsqueeze(-1)).squeeze(-1).double()

    def solved(self, ridge: float, columns: slice | list[int] = slice(None)) -> SaliencyFit:
        """Return the solution, optionally with only some of the features."""
        covariance = torch.as_tensor(self._products)[:, columns][:, :, columns] / self._count
        with_target = torch.as_tensor(self._with_target)[:, columns]
        spread = covariance.diagonal(dim1=1, dim2=2).sqrt().clamp_min(1e-6)
        standard = covariance / spread.unsqueeze(1) / spread.unsqueeze(2)
        factor = torch.linalg.cholesky(standard + ridge * torch.eye(spread.shape[1], dtype=torch.double))
        weights = torch.cholesky_solve((with_target / self._count / spread).unsqueeze(-1), factor)
        size = (weights.transpose(1, 2) @ standard @ weights).sqrt().clamp_min(1e-6).squeeze(-1)
        return SaliencyFit((weights.squeeze(-1) / spread).float(), spread.float(), size.float())


@dataclass(frozen=True)
class _Fitting:
    """The two steps, and the measure to compare them."""

    features: Features
    recipe: Recipe
    progress: Progress

    def regressed(self, records: Sequence[Record]) -> dict[int, SaliencyRegression]:
        """Return, for each layer, a regression on the logarithm of the saliency."""
        regressions: defaultdict[int, SaliencyRegression] = defaultdict(SaliencyRegression)
        for record in records:
            for index in record.layers:
                layer = record.layer(index)
                target = saliency_target(layer, self.recipe.floor)
                regressions[index].add(self.features(index, record, layer), target)
            self.progress(STEP)
        return regressions

    def descended(self, start: dict[str, dict[int, SaliencyFit]], records: Sequence[Record]) -> dict[str, Weights]:
        """Return weights after some epochs of gradient descent on the cost of selections, starting from given ones.

        What is minimised is the mean square root of the cost: a compromise between nats, most of which are lost where
        much is quoted, and equal weight for every context.
        """
        recipe = self.recipe
        first = {name: {index: one.weights for index, one in layers.items()} for name, layers in start.items()}
        scales = self.predicted(first, records[: recipe.curve_contexts], recipe.rows)
        parameters = {
            (name, index): torch.nn.Parameter(one.weights * one.spread / one.size)
            for name, layers in start.items()
            for index, one in layers.items()
        }

        def losses(record: Record, early: bool, chance: random.Random) -> Iterator[torch.Tensor]:
            for index in record.layers:
                layer = record.layer(index, recipe.rows)
                features = self.features(index, record, layer)
                for name, layers in start.items():
                    spread, weights = layers[index].spread, parameters[name, index]
                    found = features[..., : weights.shape[1]] / spread.unsqueeze(1)
                    costs = equal_costs(layer, _standard((found @ weights.unsqueeze(-1)).squeeze(-1)), recipe)
                    yield (costs / scales[name][index].clamp_min(1e-12) + 1e-8).sqrt().mean()

        rate, epochs = recipe.learning_rate_of_saliency, recipe.epochs_of_saliency
        pace = Pace(epochs, rate, recipe.averaged, slowing=recipe.slowing)
        descend([*parameters.values()], losses, records, pace, recipe.seed, lambda: self.progress(STEP))
        return {
            name: {index: parameters[name, index].detach() / one.spread for index, one in layers.items()}
            for name, layers in start.items()
        }

    def predicted(
        self, steps: dict[str, Weights], records: Sequence[Record], most_rows: int | None = None
    ) -> dict[str, dict[int, torch.Tensor]]:
        """Return the mean predicted divergence at equal budgets, by weights and layer, shape (ratios,)."""
        none = torch.zeros(len(self.recipe.saliency_ratios))
        total = {name: dict.fromkeys(weights, none) for name, weights in steps.items()}
        for record in records:
            for index in record.layers:
                layer = record.layer(index, most_rows)
                features = self.features(index, record, layer)
                for name, weights in steps.items():
                    size = weights[index].shape[1]
                    scores = (features[..., :size] @ weights[index].unsqueeze(-1)).squeeze(-1)
                    total[name][index] = total[name][index] + equal_costs(layer, scores, self.recipe) / len(records)
            self.progress(STEP)
        return total


def _solved(regressions: dict[int, SaliencyRegression], ridge: float, first: int | None) -> dict[int, SaliencyFit]:
    return {index: one.solved(ridge, slice(first)) for index, one in regressions.items()}


def _standard(scores: torch.Tensor) -> torch.Tensor:
    return (scores - scores.mean(dim=-1, keepdim=True)) / scores.std(dim=-1, keepdim=True).clamp_min(1e-6)
