"""Fitting the saliency expert: first to what each key is worth, then to what its selections cost."""

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
from pikvpress.calibration.collect import RATIOS, LayerRecord, Record
from pikvpress.calibration.measure import Reading
from pikvpress.calibration.training import ROWS, TailMean, kept_keys, selection_cost
from pikvpress.experts.saliency import num_features, positions_of, saliency_features

EPOCHS = 2
LEARNING_RATE = 0.005
SOFTNESS = 0.2  # of the selection, in standard deviations of a head's scores
RIDGE = 3e-3  # pull towards 0, in variances of the features
FLOOR = 0.01  # of the saliency, in means of a head: below it keys are alike

Progress = Callable[[str], None]


@torch.no_grad()
def saliency(reading: Reading) -> torch.Tensor:
    """Return what predictions lose if one key is removed, in nats summed over a head's rows, shape (kv_heads, keys).

    Without key t the others' attention grows in proportion, so that the output o changes by a_t / (1 - a_t) (o - v_t);
    the loss is ½ E[(g · change)²], as in `measure.divergence`.
    """
    worth = torch.einsum("shrd,hkd->shrk", reading.gradients, reading.values)
    worth -= (reading.gradients * reading.output).sum(dim=-1, keepdim=True)
    worth *= reading.attention / (1 - reading.attention).clamp_min(1e-3)
    return worth.square_().mean(dim=0).sum(dim=1) / 2


def fit_saliency(
    model: PreTrainedModel, records: Sequence[Record], held: Sequence[Record], seed: int, progress: Progress
) -> tuple[torch.Tensor, dict[str, object]]:
    """Fit the weights of `SaliencyScorer` to records.

    A ridge regression on the logarithm of the saliency starts; gradients of what the selection of the best keys costs,
    at equal budgets, go on. Held-out records decide whether the second step stays.

    Parameters
    ----------
    model : PreTrainedModel
        Whose records these are; left as it was found.
    records, held : sequence of Record
        To fit on, and to decide by.
    seed : int
        Of the order in which records are visited.
    progress : callable
        Told of every visit of a record.

    Returns
    -------
    (torch.Tensor, dict)
        Weights, shape (layers, kv_heads, features), float32, 0 for layers that are not compressed; and the predicted
        divergence of each step on held-out records, by ratio, with the name of the one that was kept.
    """
    with torch.no_grad(), _features_of(model) as features:
        start = _regress(features, records, progress)
        steps = {"regressed": {index: layer.weights for index, layer in start.items()}}
        steps["descended"] = _descend(features, start, records, seed, progress)
        found = {name: _predicted(features, weights, held, progress) for name, weights in steps.items()}
    kept = min(found, key=lambda name: float((found[name] / found["regressed"].clamp_min(1e-12)).mean()))
    layers = models.attention_layers(model)
    size = num_features(layers[0].head_dim)
    whole = torch.zeros(len(layers), models.num_key_value_heads(layers[0]), size)
    for index, weights in steps[kept].items():
        whole[index] = weights
    return whole, {"predicted_divergence": {name: value.tolist() for name, value in found.items()}, "kept": kept}


Features = Callable[[int, LayerRecord], torch.Tensor]
Weights = dict[int, torch.Tensor]


@contextmanager
def _features_of(model: PreTrainedModel) -> Iterator[Features]:
    """Give a function that returns the saliency features of a layer of a record, shape (kv_heads, keys, features)."""
    layers = models.attention_layers(model)

    def features(index: int, layer: LayerRecord) -> torch.Tensor:
        keys = layer.keys.unsqueeze(0).to(model.device)
        cos, sin = positions_of(layers[index], keys, {})
        return saliency_features(keys.cpu(), layer.reading.values.unsqueeze(0), cos.cpu(), sin.cpu())[0]

    with models.rotary_at_hand(model):
        yield features


class _Regression:
    """Ridge regression of one layer's heads, features and target taken about their mean in each context."""

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

    def solved(self) -> _Start:
        """Return what was found."""
        covariance, with_target = torch.as_tensor(self._products) / self._count, torch.as_tensor(self._with_target)
        spread = covariance.diagonal(dim1=1, dim2=2).sqrt().clamp_min(1e-6)
        standard = covariance / spread.unsqueeze(1) / spread.unsqueeze(2)
        factor = torch.linalg.cholesky(standard + RIDGE * torch.eye(spread.shape[1], dtype=torch.double))
        weights = torch.cholesky_solve((with_target / self._count / spread).unsqueeze(-1), factor)
        size = (weights.transpose(1, 2) @ standard @ weights).sqrt().clamp_min(1e-6).squeeze(-1)
        return _Start((weights.squeeze(-1) / spread).float(), spread.float(), size.float())


@dataclass(frozen=True)
class _Start:
    """Weights (kv_heads, features), the features' standard deviations, and those of the scores (kv_heads, 1)."""

    weights: torch.Tensor
    spread: torch.Tensor
    size: torch.Tensor


def _regress(features: Features, records: Sequence[Record], progress: Progress) -> dict[int, _Start]:
    """Return by layer what explains the logarithm of the saliency best."""
    regressions: defaultdict[int, _Regression] = defaultdict(_Regression)
    for record in records:
        for index in record.layers:
            layer = record.layer(index)
            worth = saliency(layer.reading)
            target = (worth / worth.mean(dim=1, keepdim=True).clamp_min(1e-30) + FLOOR).log()
            regressions[index].add(features(index, layer), target)
        progress("fitting saliency")
    return {index: regression.solved() for index, regression in regressions.items()}


def _descend(
    features: Features, start: dict[int, _Start], records: Sequence[Record], seed: int, progress: Progress
) -> Weights:
    """Return weights after some epochs of gradient descent on what selections cost, from others."""
    scales = _predicted(features, {index: layer.weights for index, layer in start.items()}, records, progress)
    parameters = {index: torch.nn.Parameter(one.weights * one.spread / one.size) for index, one in start.items()}
    optimizer = torch.optim.Adam(list(parameters.values()), lr=LEARNING_RATE)
    steps = EPOCHS * len(records)
    mean = TailMean(list(parameters.values()), steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - 0.9 * step / max(1, steps))
    chance = random.Random(seed)
    for _ in range(EPOCHS):
        for record in chance.sample(list(records), len(records)):
            ratio = chance.randrange(len(RATIOS))
            optimizer.zero_grad()
            for index in record.layers:
                layer = record.layer(index, ROWS)
                found = features(index, layer) / start[index].spread.unsqueeze(1)
                with torch.enable_grad():
                    scores = (found @ parameters[index].unsqueeze(-1)).squeeze(-1)
                    kept = kept_keys(_standard(scores), _counts(scores, ratio), SOFTNESS)
                    loss = selection_cost(layer.reading, kept).sum() / scales[ratio].clamp_min(1e-12)
                    loss.backward()
            optimizer.step()
            schedule.step()
            mean.add()
            progress("fitting saliency")
    mean.take()
    return {index: parameter.detach() / start[index].spread for index, parameter in parameters.items()}


def _predicted(features: Features, weights: Weights, records: Sequence[Record], progress: Progress) -> torch.Tensor:
    """Return the mean predicted divergence of selections by weights at equal budgets, shape (ratios,)."""
    total = torch.zeros(len(RATIOS))
    for record in records:
        for index in record.layers:
            layer = record.layer(index)
            scores = (features(index, layer) @ weights[index].unsqueeze(-1)).squeeze(-1)
            for ratio in range(len(RATIOS)):
                kept = kept_keys(scores, _counts(scores, ratio), SOFTNESS)
                total[ratio] += selection_cost(layer.reading, kept).sum() / len(records)
        progress("fitting saliency")
    return total


def _standard(scores: torch.Tensor) -> torch.Tensor:
    return (scores - scores.mean(dim=-1, keepdim=True)) / scores.std(dim=-1, keepdim=True).clamp_min(1e-6)


def _counts(scores: torch.Tensor, ratio: int) -> torch.Tensor:
    return torch.full(scores.shape[:1], compute_n_kept(scores.shape[1], RATIOS[ratio]))
