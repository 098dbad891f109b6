"""Measurement of one situation: how its futures read its context."""

from __future__ import annotations

import torch
from kvpress.utils import extract_keys_and_values
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.calibration.data.situations import Situation
from pikvpress.calibration.measure.examine import prefill_seen
from pikvpress.calibration.measure.teacher import read_future
from pikvpress.experts import LayerInput


@torch.no_grad()
def collect(model: PreTrainedModel, situation: Situation, samples: int, seed: int) -> dict[str, torch.Tensor]:
    """Measure how the futures of a situation read its context.

    Parameters
    ----------
    model : PreTrainedModel
        The model, which is restored at the end.
    situation : Situation
        A context and its futures.
    samples, seed : int
        Number of labels per token for which gradients are computed, and the random seed of the labels.

    Returns
    -------
    dict of torch.Tensor
        For each layer i, on the CPU, without batch dimension: "i/keys", "i/values" (kv_heads, keys, head_dim); and,
        unless the layer has sliding-window attention, its input "i/hidden" (keys, hidden) and for each future j
        "i/j/queries", "i/j/keys", "i/j/values", "i/j/gradients".
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}

    def keep_hidden(layer: LayerInput) -> None:
        tensors[f"{layer.index}/hidden"] = _stored(layer.hidden_states[0])

    cache = prefill_seen(model, situation.context, keep_hidden)
    for index in range(len(cache)):
        keys, values = extract_keys_and_values(cache, index)
        tensors |= {f"{index}/keys": _stored(keys[0]), f"{index}/values": _stored(values[0])}
    slides = [models.is_sliding(layer, cache.layers[i]) for i, layer in enumerate(models.attention_layers(model))]
    for number, future in enumerate(situation.futures):
        for index, layer in enumerate(read_future(model, cache, future, samples, generator)):
            if not slides[index]:
                tensors |= {
                    f"{index}/{number}/queries": _stored(layer.queries),
                    f"{index}/{number}/keys": _stored(layer.keys),
                    f"{index}/{number}/values": _stored(layer.values),
                    f"{index}/{number}/gradients": layer.gradients.float().cpu(),
                }
    return tensors


def _stored(states: torch.Tensor) -> torch.Tensor:
    """Return states in half the bytes: the effect on a fit is below the noise of sampling labels."""
    kind = torch.bfloat16 if states.dtype == torch.bfloat16 else torch.float16
    return states.to("cpu", kind).contiguous()
