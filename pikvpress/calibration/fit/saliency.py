"""Fitting the saliency expert: first to the value of each key, then to the cost of its selections."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.calibration.fit.budgets import HeadBudgets
from pikvpress.calibration.fit.loop import Pace, descend
from pikvpress.calibration.measure.cost import removal_costs, selection_cost
from pikvpress.calibration.measure.record import LayerRecord, Record
from pikvpress.calibration.measure.selection import kept_keys
from pikvpress.calibration.recipe import Recipe
from pikvpress.calibration.steps import Progress
from pikvpress.experts.saliency import num_features, positions_of, saliency_features

Features = Callable[[int, LayerRecord], torch.Tensor]
Weights = dict[int, torch.Tensor]
STEP = "fitting saliency"


def fit_saliency(
    model: PreTrainedModel, records: Sequence[Record], held: Sequence[Record], recipe: Recipe, progress: Progress
) -> tuple[torch.Tensor, dict[str, object]]:
    """Fit the weights of `SaliencyScorer` to records.

    The first step is a ridge regression on the logarithm of the saliency, the second gradient descent on the cost of
    selecting the best keys at equal budgets. Held-out records decide whether the second step is kept.

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
    (torch.Tensor, dict)
        Weights, shape (layers, kv_heads, features), float32, 0 for layers that are not compressed; and the predicted
        divergence of each step on held-out records, by ratio, with the name of the step that was kept.
    """
    with torch.no_grad(), _features_of(model) as features:
        fitting = _Fitting(features, recipe, progress)
        start = fitting.regressed(records)
        steps = {"regressed": {index: layer.weights for index, layer in start.items()}}
        steps["descended"] = fitting.descended(start, records)
        found = {name: fitting.predicted(weights, held) for name, weights in steps.items()}
    kept = min(found, key=lambda name: float((found[name] / found["regressed"].clamp_min(1e-12)).mean()))
    layers = models.attention_layers(model)
    size = num_features(layers[0].head_dim)
    whole = torch.zeros(len(layers), models.num_key_value_heads(layers[0]), size)
    for index, weights in steps[kept].items():
        whole[index] = weights
    return whole, {"predicted_divergence": {name: value.tolist() for name, value in found.items()}, "kept": kept}


@contextmanager
def _features_of(model: PreTrainedModel) -> Iterator[Features]:
    """Yield a function that returns the saliency features of a layer of a record, shape (kv_heads, keys, features)."""
    layers = models.attention_layers(model)

    def features(index: int, layer: LayerRecord) -> torch.Tensor:
        keys = layer.keys.unsqueeze(0).to(model.device)
        cos, sin = positions_of(layers[index], keys, {})
        return saliency_features(keys.cpu(), layer.reading.values.unsqueeze(0), cos.cpu(), sin.cpu())[0]

    with models.rotary_at_hand(model):
        yield features


@dataclass(frozen=True)
class _Start:
    """Weights (kv_heads, features), and standard deviations of the features and of the scores (kv_heads, 1)."""

    weights: torch.Tensor
    spread: torch.Tensor
    size: torch.Tensor


class _Regression:
    """Ridge regression for one layer's heads, with features and target centred in each context."""

    def __init__(self) -> None:
        self._count = 0
        self._products: torch.Tensor | float = 0.0
        self._with_target: torch.Tensor | float = 0.0

    def add(self, features: torch.Tensor, target: torch.Tensor) -> None:
        """Add a context: features (kv_heads, keys, features), target (kv_heads, keys)."""
        features = features.double() - features.double().mean(dim=1, keepdim=True)
        self._count += features.shape[1]
        self._products = self._products + features.transpose(1, 2) @ features
        self._with_target = self._with_target + (features.transpose(1, 2) @ target.double().unsqueeze(-1)).squeeze(-1)

    def solved(self, ridge: float) -> _Start:
        """Return the solution."""
        covariance, with_target = torch.as_tensor(self._products) / self._count, torch.as_tensor(self._with_target)
        spread = covariance.diagonal(dim1=1, dim2=2).sqrt().clamp_min(1e-6)
        standard = covariance / spread.unsqueeze(1) / spread.unsqueeze(2)
        factor = torch.linalg.cholesky(standard + ridge * torch.eye(spread.shape[1], dtype=torch.double))
        weights = torch.cholesky_solve((with_target / self._count / spread).unsqueeze(-1), factor)
        size = (weights.transpose(1, 2) @ standard @ weights).sqrt().clamp_min(1e-6).squeeze(-1)
        return _Start((weights.squeeze(-1) / spread).float(), spread.float(), size.float())


@dataclass(frozen=True)
class _Fitting:
    """The two steps, and the measure to compare them."""

    features: Features
    recipe: Recipe
    progress: Progress

    def regressed(self, records: Sequence[Record]) -> dict[int, _Start]:
        """Return, for each layer, the weights that best explain the logarithm of the saliency."""
        regressions: defaultdict[int, _Regression] = defaultdict(_Regression)
        for record in records:
            for index in record.layers:
                layer = record.layer(index)
                worth = removal_costs(layer.reading)
                target = (worth / worth.mean(dim=1, keepdim=True).clamp_min(1e-30) + self.recipe.floor).log()
                regressions[index].add(self.features(index, layer), target)
            self.progress(STEP)
        return {index: regression.solved(self.recipe.ridge) for index, regression in regressions.items()}

    def descended(self, start: dict[int, _Start], records: Sequence[Record]) -> Weights:
        """Return weights after some epochs of gradient descent on the cost of selections, starting from given ones."""
        recipe = self.recipe
        scales = self.predicted({index: layer.weights for index, layer in start.items()}, records).clamp_min(1e-12)
        parameters = {index: torch.nn.Parameter(one.weights * one.spread / one.size) for index, one in start.items()}

        def losses(record: Record, early: bool, chance: random.Random) -> Iterator[torch.Tensor]:
            ratio = chance.randrange(len(recipe.ratios))
            for index in record.layers:
                layer = record.layer(index, recipe.rows)
                found = self.features(index, layer) / start[index].spread.unsqueeze(1)
                scores = (found @ parameters[index].unsqueeze(-1)).squeeze(-1)
                yield self._cost(layer, _standard(scores), index, ratio).sum() / scales[ratio]

        rate, epochs = recipe.learning_rate_of_saliency, recipe.epochs_of_saliency
        pace = Pace(epochs, rate, recipe.averaged, slowing=recipe.slowing)
        descend([*parameters.values()], losses, records, pace, recipe.seed, lambda: self.progress(STEP))
        return {index: parameter.detach() / start[index].spread for index, parameter in parameters.items()}

    def predicted(self, weights: Weights, records: Sequence[Record]) -> torch.Tensor:
        """Return the mean predicted divergence of selections by weights at equal budgets, shape (ratios,)."""
        total = torch.zeros(len(self.recipe.ratios))
        for record in records:
            for index in record.layers:
                layer = record.layer(index)
                scores = (self.features(index, layer) @ weights[index].unsqueeze(-1)).squeeze(-1)
                for ratio in range(len(total)):
                    total[ratio] += self._cost(layer, scores, index, ratio).sum() / len(records)
            self.progress(STEP)
        return total

    def _cost(self, layer: LayerRecord, scores: torch.Tensor, index: int, ratio: int) -> torch.Tensor:
        counts = HeadBudgets(self.recipe).counts(ratio, layer.num_keys, index, len(scores))
        return selection_cost(layer.reading, kept_keys(scores, counts, self.recipe.softness_of_saliency))


def _standard(scores: torch.Tensor) -> torch.Tensor:
    return (scores - scores.mean(dim=-1, keepdim=True)) / scores.std(dim=-1, keepdim=True).clamp_min(1e-6)
