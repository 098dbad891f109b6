"""The time that each expert adds to a prefill."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from pikvpress import models
from pikvpress.experts import Expert, LayerInput
from pikvpress.experts.projection_tap import ProjectionTap
from pikvpress.stopwatch import Stopwatch

ROUNDS = 3
RATIO = 0.75  # hardly affects the time


@torch.no_grad()
def expert_times(model: PreTrainedModel, context: Sequence[int], experts: Sequence[Expert]) -> list[float]:
    """Return the time of each expert relative to that of the prefill, the median of several prefills.

    Parameters
    ----------
    model : PreTrainedModel
        The model, which is restored at the end.
    context : sequence of int
        Token ids of the context.
    experts : sequence of Expert
        Experts that already have access to the model and can score the context.
    """
    shares = torch.tensor([_measured(model, context, experts) for _ in range(ROUNDS + 1)])
    return shares[1:].median(dim=0).values.tolist()  # the first prefill warms up


def _measured(model: PreTrainedModel, context: Sequence[int], experts: Sequence[Expert]) -> list[float]:
    cache, tap = DynamicCache(), ProjectionTap()
    watches = [Stopwatch() for _ in experts]

    def score(module: models.Attention, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        cached = cache.layers[module.layer_idx]
        outputs = tap.take(kwargs["hidden_states"])
        if models.is_sliding(module, cached):
            return
        layer = LayerInput(module, kwargs["hidden_states"], cached.keys, cached.values, None, kwargs, outputs)
        for expert, watch in zip(experts, watches, strict=True):
            with watch.span(layer.keys.device):
                expert.score(layer, RATIO)

    handles = [layer.register_forward_hook(score, with_kwargs=True) for layer in models.attention_layers(model)]
    with tap.on(model), models.hooked(handles), models.rotary_at_hand(model):
        began = time.perf_counter()
        model.model(input_ids=torch.tensor([list(context)], device=model.device), past_key_values=cache)
        spent = [watch.seconds for watch in watches]
        whole = time.perf_counter() - began - sum(spent)
    return [seconds / whole for seconds in spent]
