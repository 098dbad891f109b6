"""One prefill that serves many presses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from kvpress import BasePress
from kvpress.utils import extract_keys_and_values
from transformers import Cache, DynamicCache, PreTrainedModel

from evaluation.compressed import CompressedContext, taken
from evaluation.compressors.examinations import Examinations
from evaluation.compressors.shared_scores import SharedScores
from evaluation.packed import PackedPress
from evaluation.prefilling import at_hand, prefill, wait
from evaluation.quantized import QuantizedPress
from pikvpress import PiKVCache, PiKVPress, models
from pikvpress.stopwatch import Stopwatch


class PrefilledContext:
    """A context after one prefill, which serves every press that acts in hooks after attention.

    Such a press changes what later tokens read, but not what the context's own tokens have read. Its hooks can
    therefore be called afterwards with the same arguments.

    Parameters
    ----------
    model : PreTrainedModel
        The model, which prefills once.
    context : list of int
        Token ids.
    serves : bool, default=True
        Whether it serves presses, for which layers' hidden states are kept. Otherwise it gives the full cache alone.
    """

    def __init__(self, model: PreTrainedModel, context: Sequence[int], serves: bool = True):
        self._model, self.length = model, len(context)
        self._calls: list[tuple[models.Attention, dict[str, Any]]] = []
        self._full = DynamicCache()
        self._examinations = Examinations()
        layers = models.attention_layers(model) if serves else ()
        began = time.perf_counter()
        with models.hooked([layer.register_forward_hook(self._remember, with_kwargs=True) for layer in layers]):
            prefill(model, context, self._full)
        wait(model.device)
        self.seconds = time.perf_counter() - began

    def compress(self, press: BasePress | None, scores: SharedScores | None = None) -> CompressedContext:
        """Return the context compressed by the press; the full one without a press.

        Parameters
        ----------
        press : BasePress, optional
            A press that acts in hooks after attention.
        scores : SharedScores, optional
            Scores of the same press at other ratios, if they do not depend on the ratio: filled or reused.
        """
        cache = _cache_for(press, self._model)
        watch = Stopwatch()
        once = scores.of(press) if scores else nullcontext()
        with torch.no_grad(), at_hand(self._model), once, self._examinations.shared(press):
            if press is not None:
                with watch.span(self._model.device):
                    press.post_init_from_model(self._model)
            for index in range(len(self._full)):
                keys, values = extract_keys_and_values(self._full, index)
                cache.update(keys.clone(), values.clone(), index)  # presses may modify their arguments
                if press is None:
                    continue
                module, kwargs = self._calls[index]
                with watch.span(keys.device):
                    press.forward_hook(module, [], kwargs | {"past_key_values": cache}, [None, None])
            seconds = watch.seconds + (scores.seconds_saved if scores else 0.0) + self._examinations.seconds_saved
            return taken(self._model, press, cache, self.length, seconds)

    def _remember(self, module: models.Attention, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        self._calls.append((module, {name: value for name, value in kwargs.items() if name != "past_key_values"}))


def _cache_for(press: BasePress | None, model: PreTrainedModel) -> Cache:
    if isinstance(press, PiKVPress):
        return PiKVCache()
    return press.cache(model) if isinstance(press, QuantizedPress | PackedPress) else DynamicCache()
