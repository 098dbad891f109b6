"""Presses that read attention weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvpress import BasePress
from kvpress.utils import extract_keys_and_values
from transformers import DynamicCache, PreTrainedModel

from evaluation.compressed import CompressedContext, taken
from evaluation.compressors.compressor import Compressor
from evaluation.prefilling import at_hand, prefill, wait
from pikvpress import models
from pikvpress.stopwatch import Stopwatch

if TYPE_CHECKING:
    from evaluation.compressors.source_context import SourceContext
    from evaluation.presses.spec import PressSpec
    from evaluation.units import Sample


@dataclass(frozen=True)
class EagerPrefill(Compressor):
    """One prefill with eager attention, which returns attention weights, serves a press at every ratio."""

    def compress(
        self, press: PressSpec, ratio: float | None, source: SourceContext, sample: Sample | None = None
    ) -> CompressedContext:
        """Return the context compressed by the press; the first call compresses at every ratio."""

        def at_every_ratio() -> dict[float, CompressedContext]:
            made: Any = [press.make(each) for each in source.ratios]
            found = compress_with_weights(source.model, source.context, made, source.prefilled.seconds)
            return dict(zip(source.ratios, found, strict=True))

        assert ratio is not None
        return source.once(("eager", press.name), at_every_ratio)[ratio]


def compress_with_weights(
    model: PreTrainedModel, context: Sequence[int], presses: Sequence[BasePress], plain_seconds: float
) -> list[CompressedContext]:
    """Return a context compressed by each of several presses that read attention weights.

    The weights of all layers are too large to be kept, so the presses' hooks are called during one prefill with eager
    attention, each with its own cache.

    Parameters
    ----------
    model, context
        The model, and the token ids of the context.
    presses : sequence of BasePress
        Presses that do their work in hooks after attention.
    plain_seconds : float
        Time of a prefill without a press, which is subtracted from the times.
    """
    caches = [DynamicCache() for _ in presses]
    watches = [Stopwatch() for _ in presses]
    full = DynamicCache()

    def call_presses(module: models.Attention, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        keys, values = extract_keys_and_values(full, module.layer_idx)
        for press, cache, watch in zip(presses, caches, watches, strict=True):
            cache.update(keys.clone(), values.clone(), module.layer_idx)
            with watch.span(model.device):
                press.forward_hook(module, [], kwargs | {"past_key_values": cache}, output)

    with ExitStack() as stack:
        stack.enter_context(at_hand(model))
        stack.enter_context(models.attention_mode(model, "eager"))
        for press in presses:
            press.post_init_from_model(model)
        for layer in models.attention_layers(model):
            stack.callback(layer.register_forward_hook(call_presses, with_kwargs=True).remove)
        began = time.perf_counter()
        prefill(model, context, full)
        wait(model.device)
        eager = time.perf_counter() - began - sum(watch.seconds for watch in watches)
        return [
            taken(model, press, cache, len(context), max(0.0, eager - plain_seconds) + watch.seconds)
            for press, cache, watch in zip(presses, caches, watches, strict=True)
        ]
