"""Oracles: selections with knowledge of the future text, as a bound on the possible gain of a router."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from kvpress import BasePress
from kvpress.utils import compute_n_kept, extract_keys_and_values
from transformers import DynamicCache, PreTrainedModel

from evaluation.compressed import CompressedContext
from pikvpress import models
from pikvpress.calibration import Recipe
from pikvpress.calibration.measure.cost import divergence
from pikvpress.calibration.measure.examine import examined
from pikvpress.calibration.measure.reading import FutureReading, read
from pikvpress.calibration.measure.teacher import read_future
from pikvpress.experts import available_experts, equipped, make_experts
from pikvpress.experts.saliency import NAME as SALIENCY
from pikvpress.gates import find_gates
from pikvpress.kernels.compact import gather_rows, select
from pikvpress.routing.examination import Examination


@dataclass(frozen=True)
class Foreseen:
    """The information about a context that oracles use.

    Parameters
    ----------
    cache : DynamicCache
        The full cache.
    ratios : list of float
        Ratios at which experts were examined.
    found : dict of int to list of Examination
        For each layer that can be compressed, in the order of `ratios`.
    readings : dict of int to FutureReading
        How the future reads those layers.
    num_keys : int
        Number of tokens of the context.
    seconds : float
        Time for one ratio.
    """

    cache: DynamicCache
    ratios: list[float]
    found: dict[int, list[Examination]]
    readings: dict[int, FutureReading]
    num_keys: int
    seconds: float


def foresee(
    model: PreTrainedModel,
    context: Sequence[int],
    future: Sequence[int],
    experts: Sequence[str] | None,
    ratios: Sequence[float],
    seed: int,
) -> Foreseen:
    """Examine a context and read its future, once for all oracles with the same experts; by default all experts."""
    began = time.perf_counter()
    gates = find_gates(models.fingerprint(models.attention_layers(model)[0]))
    weights = (None, None) if gates is None else (gates.saliency, gates.saliency_hidden)
    fitted = () if weights[0] is None else (SALIENCY,)
    named = make_experts((*fitted, *available_experts()) if experts is None else experts, None)
    made = equipped(named, *weights)
    for expert in made:
        expert.press.post_init_from_model(model)
    cache, found = examined(model, context, made, ratios)
    examining = (time.perf_counter() - began) / len(ratios)
    began = time.perf_counter()
    futures = read_future(model, cache, future, Recipe.gradient_samples, torch.Generator().manual_seed(seed))
    readings = {}
    for index in found:
        keys, values = extract_keys_and_values(cache, index)
        ahead = futures[index]
        parts = tuple(part.float() for part in (ahead.queries, ahead.keys, ahead.values, ahead.gradients))
        scaling = models.attention_layers(model)[index].scaling
        readings[index] = read(keys[0].float(), values[0].float(), [parts], scaling)  # type: ignore[list-item]
    seconds = examining + time.perf_counter() - began
    return Foreseen(cache, list(ratios), found, readings, len(context), seconds)


@dataclass
class OraclePress(BasePress):
    """For every KV head of every input, the experts with the lowest cost to the future text, at equal budgets.

    It cannot be applied to a model like other presses, since it needs the future text.

    Parameters
    ----------
    most : int
        Maximum number of experts that a head blends: with 1 it chooses one; more are added greedily as long as the
        predicted cost decreases.
    experts : tuple of str, optional
        Candidate experts. By default all, including the fitted expert if there are gates for the model.
    compression_ratio : float
        Share of the keys to remove.
    """

    most: int = 1
    experts: tuple[str, ...] | None = None
    compression_ratio: float = 0.0

    def compress_knowing(self, seen: Foreseen) -> CompressedContext:
        """Return the context compressed by the oracle for this future only."""
        began = time.perf_counter()
        num_kept = compute_n_kept(seen.num_keys, self.compression_ratio)
        layers = []
        for index in range(len(seen.cache)):
            keys, values = extract_keys_and_values(seen.cache, index)
            if index in seen.readings and num_kept < keys.shape[2]:
                ranked = seen.found[index][seen.ratios.index(self.compression_ratio)].ranked[0]
                positions = select(self._blend(seen.readings[index], ranked, num_kept).unsqueeze(0), num_kept)
                keys, values = gather_rows(keys, positions), gather_rows(values, positions)
            layers.append((keys, values))
        seconds = time.perf_counter() - began + seen.seconds
        return CompressedContext(layers, [None] * len(layers), seen.num_keys, seconds)

    def _blend(self, reading: FutureReading, ranks: torch.Tensor, num_kept: int) -> torch.Tensor:
        """Return the best blend of ranks (kv_heads, experts, keys) by head, shape (kv_heads, keys)."""
        heads = torch.arange(ranks.shape[0], device=ranks.device)
        blended = torch.zeros_like(ranks[:, 0])
        lowest = torch.full((len(heads),), torch.inf, device=ranks.device)
        for _ in range(self.most):
            tried = blended.unsqueeze(1) + ranks
            costs = torch.stack(
                [divergence(reading, one.topk(num_kept, dim=-1).indices, [num_kept])[:, 0] for one in tried.unbind(1)],
                dim=1,
            )
            least, which = costs.min(dim=1)
            better = least < lowest
            blended = torch.where(better.unsqueeze(1), tried[heads, which], blended)
            lowest = torch.minimum(lowest, least)
        return blended
