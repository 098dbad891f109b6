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
from pikvpress.experts.saliency_features import hidden_features, num_features, positions_of, saliency_features

Features = Callable[[int, Record, LayerRecord], torch.Tensor]
Weights = dict[int, torch.Tensor]
STEP = "fitting saliency"


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

    Weights come from a ridge regression on the logarithm of the saliency; those for hidden states then from gradient
    descent on the cost of selecting the best keys at equal budgets. Held-out records decide whether hidden states are
    used, and whether the descent is kept.

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
        The weights; and the predicted divergence on held-out records, by `Recipe.saliency_ratios`, of the entries alone
        and of each step with hidden states, with the name of the best.
    """
    layers = models.attention_layers(model)
    size = num_features(layers[0].head_dim)
    with torch.no_grad(), _features_of(model) as features:
        fitting = _Fitting(features, recipe, progress)
        regressions = fitting.regressed(records)
        alone = {index: one.solved(recipe.ridge, size).weights for index, one in regressions.items()}
        start = {index: one.solved(recipe.ridge) for index, one in regressions.items()}
        steps = {"entries": alone, "hidden states": {index: layer.weights for index, layer in start.items()}}
        steps["descended"] = fitting.descended(start, records)
        found = {name: fitting.predicted(weights, held) for name, weights in steps.items()}
    kept = min(found, key=lambda name: float((found[name] / found["entries"].clamp_min(1e-12)).mean()))
    hidden = None if kept == "entries" else _whole(steps[kept], len(layers))
    figures: dict[str, object] = {"kept": kept}
    figures["predicted_divergence"] = {name: value.tolist() for name, value in found.items()}
    return FittedSaliency(_whole(alone, len(layers)), hidden), figures


def _whole(weights: Weights, layers: int) -> torch.Tensor:
    """Return the weights of all layers, 0 for those without."""
    none = torch.zeros_like(next(iter(weights.values())))
    return torch.stack([weights.get(index, none) for index in range(layers)])


@contextmanager
def _features_of(model: PreTrainedModel) -> Iterator[Features]:
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
        features = features - features.mean(dim=1, keepdim=True)
        self._count += features.shape[1]
        self._products = self._products + (features.mT @ features).double()
        self._with_target = self._with_target + (features.mT @ target.unsqueeze(-1)).squeeze(-1).double()

    def solved(self, ridge: float, first: int | None = None) -> _Start:
        """Return the solution, optionally with only the first features."""
        covariance = torch.as_tensor(self._products)[:, :first, :first] / self._count
        with_target = torch.as_tensor(self._with_target)[:, :first]
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

    def regressed(self, records: Sequence[Record]) -> dict[int, _Regression]:
        """Return, for each layer, a regression on the logarithm of the saliency."""
        regressions: defaultdict[int, _Regression] = defaultdict(_Regression)
        for record in records:
            for index in record.layers:
                layer = record.layer(index)
                worth = removal_costs(layer.reading)
                target = (worth / worth.mean(dim=1, keepdim=True).clamp_min(1e-30) + self.recipe.floor).log()
                regressions[index].add(self.features(index, record, layer), target)
            self.progress(STEP)
        return regressions

    def descended(self, start: dict[int, _Start], records: Sequence[Record]) -> Weights:
        """Return weights after some epochs of gradient descent on the cost of selections, starting from given ones."""
        recipe = self.recipe
        weights = {index: layer.weights for index, layer in start.items()}
        scales = self.predicted(weights, records, recipe.rows).clamp_min(1e-12)
        parameters = {index: torch.nn.Parameter(one.weights * one.spread / one.size) for index, one in start.items()}

        def losses(record: Record, early: bool, chance: random.Random) -> Iterator[torch.Tensor]:
            ratio = chance.randrange(len(recipe.saliency_ratios))
            for index in record.layers:
                layer = record.layer(index, recipe.rows)
                found = self.features(index, record, layer) / start[index].spread.unsqueeze(1)
                scores = (found @ parameters[index].unsqueeze(-1)).squeeze(-1)
                yield self._cost(layer, _standard(scores), index, ratio).sum() / scales[ratio]

        rate, epochs = recipe.learning_rate_of_saliency, recipe.epochs_of_saliency
        pace = Pace(epochs, rate, recipe.averaged, slowing=recipe.slowing)
        descend([*parameters.values()], losses, records, pace, recipe.seed, lambda: self.progress(STEP))
        return {index: parameter.detach() / start[index].spread for index, parameter in parameters.items()}

    def predicted(self, weights: Weights, records: Sequence[Record], most_rows: int | None = None) -> torch.Tensor:
        """Return the mean predicted divergence of selections by weights at equal budgets, shape (ratios,)."""
        total = torch.zeros(len(self.recipe.saliency_ratios))
        for record in records:
            for index in record.layers:
                layer = record.layer(index, most_rows)
                size = weights[index].shape[1]
                found = self.features(index, record, layer)[..., :size]
                scores = (found @ weights[index].unsqueeze(-1)).squeeze(-1)
                for ratio in range(len(total)):
                    total[ratio] += self._cost(layer, scores, index, ratio).sum() / len(records)
            self.progress(STEP)
        return total

    def _cost(self, layer: LayerRecord, scores: torch.Tensor, index: int, ratio: int) -> torch.Tensor:
        kept = compute_n_kept(layer.num_keys, self.recipe.saliency_ratios[ratio])
        counts = torch.full((len(scores),), kept)
        return selection_cost(layer.reading, kept_keys(scores, counts, self.recipe.softness_of_saliency))


def _standard(scores: torch.Tensor) -> torch.Tensor:
    return (scores - scores.mean(dim=-1, keepdim=True)) / scores.std(dim=-1, keepdim=True).clamp_min(1e-6)
