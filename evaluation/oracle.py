"""Oracles: selections by somebody who knows what will be read. They bound what a router can win."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from kvpress import BasePress
from kvpress.utils import compute_n_kept, extract_keys_and_values
from transformers import PreTrainedModel

from evaluation.compressed import CompressedContext
from pikvpress import models
from pikvpress.calibration.collect import examined
from pikvpress.calibration.measure import Reading, divergence, read
from pikvpress.calibration.teacher import read_future
from pikvpress.experts import available_experts, make_experts
from pikvpress.kernels.compact import gather_rows, select

LABELS = 2  # samples of labels that gradients are taken for, as in calibration


@dataclass
class Oracle(BasePress):
    """For every KV head of every input, the experts that cost the text to come least, at equal budgets.

    A press in name only: it cannot be hung on a model, since it must be told what will be read.

    Parameters
    ----------
    most : int
        How many experts a head blends: 1 chooses; more are added one by one while the predicted cost falls.
    experts : tuple of str
        Among which.
    compression_ratio : float
        Share of the keys to remove.
    """

    most: int = 1
    experts: tuple[str, ...] = available_experts()
    compression_ratio: float = 0.0

    def compress_knowing(
        self, model: PreTrainedModel, context: Sequence[int], future: Sequence[int], seed: int
    ) -> CompressedContext:
        """Return the context as the oracle leaves it, for this future and no other."""
        began = time.perf_counter()
        experts = make_experts(self.experts, None)
        for expert in experts:
            expert.press.post_init_from_model(model)
        cache, found = examined(model, context, experts, [self.compression_ratio])
        futures = read_future(model, cache, future, LABELS, torch.Generator().manual_seed(seed))
        num_kept = compute_n_kept(len(context), self.compression_ratio)
        layers = []
        for index, attention in enumerate(models.attention_layers(model)):
            keys, values = extract_keys_and_values(cache, index)
            if index in found and num_kept < keys.shape[2]:
                ahead = futures[index]
                parts = (ahead.queries, ahead.keys, ahead.values, ahead.gradients)
                reading = read(keys[0].float(), values[0].float(), [tuple(p.float() for p in parts)], attention.scaling)  # type: ignore[list-item]
                positions = select(self._blend(reading, found[index][0].ranked[0], num_kept).unsqueeze(0), num_kept)
                keys, values = gather_rows(keys, positions), gather_rows(values, positions)
            layers.append((keys, values))
        return CompressedContext(layers, [None] * len(layers), len(context), time.perf_counter() - began)

    def _blend(self, reading: Reading, ranks: torch.Tensor, num_kept: int) -> torch.Tensor:
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
