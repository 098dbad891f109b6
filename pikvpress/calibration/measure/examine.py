"""The experts' and routers' view of a context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from kvpress.utils import extract_keys_and_values
from transformers import DynamicCache, PreTrainedModel

from pikvpress import models
from pikvpress.calibration.recipe import Recipe
from pikvpress.experts import Expert, LayerInput
from pikvpress.experts.projection_tap import ProjectionTap
from pikvpress.refit import references
from pikvpress.routing.examination import Examination, examine


def look(
    model: PreTrainedModel, context: Sequence[int], experts: Sequence[Expert], ratios: Sequence[float]
) -> dict[str, torch.Tensor]:
    """Examine a context with experts.

    Parameters
    ----------
    model : PreTrainedModel
        The model, which is restored at the end.
    context : sequence of int
        Token ids of the context.
    experts : sequence of Expert
        Experts that already have access to the model.
    ratios : sequence of float
        Compression ratios for the experts.

    Returns
    -------
    dict of torch.Tensor
        For each layer i without a sliding window, on the CPU, without batch dimension: "i/ranks" (ratios, kv_heads,
        experts, keys), int32, the ranks times 2 (keys - 1); "i/features" (ratios, kv_heads, features); and "i/probes"
        (heads, n, head_dim), float16, the reference queries of the context for refitting values.
    """
    probes: dict[int, torch.Tensor] = {}

    def keep_probes(layer: LayerInput) -> None:
        probes[layer.index] = references(layer, None)[0]

    _, found = examined(model, context, experts, ratios, keep_probes)
    scale = 2 * (len(context) - 1)
    tensors: dict[str, torch.Tensor] = {}
    for index, by_ratio in found.items():
        tensors |= {
            f"{index}/ranks": torch.stack([one.ranked[0].mul(scale).round().int() for one in by_ratio]).cpu(),
            f"{index}/features": torch.stack([one.features[0] for one in by_ratio]).cpu(),
            f"{index}/probes": probes[index].half().cpu(),
        }
    return tensors


@torch.no_grad()
def examined(
    model: PreTrainedModel,
    context: Sequence[int],
    experts: Sequence[Expert],
    ratios: Sequence[float] = Recipe.ratios,
    see: Callable[[LayerInput], None] | None = None,
) -> tuple[DynamicCache, dict[int, list[Examination]]]:
    """Prefill a context and examine its layers at each of the ratios, except for sliding-window layers.

    If `see` is given, it is called with each of these layers.

    Raises
    ------
    ValueError
        If the context is too short for an expert.
    """
    found: dict[int, list[Examination]] = {}

    def look(layer: LayerInput) -> None:
        if see is not None:
            see(layer)
        found[layer.index] = [examine(experts, layer, ratio) for ratio in ratios]
        short = [expert.name for i, expert in enumerate(experts) if i not in found[layer.index][0].available]
        if short:
            raise ValueError(
                f"contexts of {len(context)} tokens are too short for {', '.join(short)}: use longer contexts, or "
                "omit them"
            )

    return prefill_seen(model, context, look), found


@torch.no_grad()
def prefill_seen(
    model: PreTrainedModel,
    context: Sequence[int],
    see: Callable[[LayerInput], None],
    tap: ProjectionTap | None = None,
) -> DynamicCache:
    """Prefill a context, with a function called for each layer after its attention, except for sliding-window layers.

    Parameters
    ----------
    model : PreTrainedModel
        The model, which is restored at the end.
    context : sequence of int
        Token ids of the context.
    see : callable
        Called with the layer's input.
    tap : ProjectionTap, optional
        A tap on the model, which provides what the layer has projected itself.

    Returns
    -------
    DynamicCache
        The full cache.
    """
    cache = DynamicCache()

    def after(module: models.Attention, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if models.is_sliding(module, cache.layers[module.layer_idx]):
            return
        keys, values = extract_keys_and_values(cache, module.layer_idx)
        outputs = {} if tap is None else tap.take(kwargs["hidden_states"])
        kwargs = models.rotation_of(module, kwargs)
        see(LayerInput(module, kwargs["hidden_states"], keys, values, None, kwargs, outputs))

    handles = [layer.register_forward_hook(after, with_kwargs=True) for layer in models.attention_layers(model)]
    with models.hooked(handles), models.rotary_at_hand(model):
        model.model(input_ids=torch.tensor([list(context)], device=model.device), past_key_values=cache)
    return cache
