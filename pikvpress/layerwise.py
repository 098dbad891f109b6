"""Presses that work layer by layer, and tidy up after a prefill that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from pikvpress import needs_kvpress  # noqa: F401  # first: it says what is missing

# isort: split
from kvpress import BasePress
from torch import nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicSlidingWindowLayer

from pikvpress import models


def acts_alone(press: BasePress, module: models.Attention) -> bool:
    """Return whether a press, or one of ours that passes layers on to it, is itself hooked on an attention module.

    Inside a wrapper of kvpress, what the press leaves may be selected from once more.
    """
    return any(hooked is press or getattr(hooked, "passes_layers_on", False) for hooked in models.presses_of(module))


class LayerwisePress(BasePress):
    """A press of ours whose work is done in hooks on layers, so that it can serve single ones.

    It comes before `ScorerPress` where a press is both.

    Attributes
    ----------
    passes_layers_on : bool
        Whether other presses of ours do its work, each in layers of its own.
    """

    passes_layers_on: ClassVar[bool] = False

    @contextmanager
    def __call__(self, model: PreTrainedModel) -> Iterator[None]:
        """Compress what `model` prefills inside the ``with``; a prefill that fails leaves its cache empty.

        Raises
        ------
        ValueError
            If the model is not supported.
        """
        model = models.unwrapped(model)
        models.check_supported(model)
        with _emptied_on_error(model), super().__call__(model):
            yield


@contextmanager
def _emptied_on_error(model: PreTrainedModel) -> Iterator[None]:
    """Remove the entries that a failed prefill has added to some layers of a cache, since they are incomplete."""
    was_empty = False

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        nonlocal was_empty
        cache = kwargs.get("past_key_values")
        was_empty = isinstance(cache, Cache) and cache.get_seq_length() == 0

    def after(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if was_empty and output is None:
            _empty(kwargs["past_key_values"])

    decoder = models.language_model(model)
    handles = [
        decoder.register_forward_pre_hook(before, with_kwargs=True),
        decoder.register_forward_hook(after, with_kwargs=True, always_call=True),
    ]
    with models.hooked(handles):
        yield


def _empty(cache: Cache) -> None:
    sliding = [layer for layer in cache.layers if isinstance(layer, DynamicSlidingWindowLayer)]
    for layer in sliding:  # a full one cannot be cropped, and resets to zeros
        layer.cumulative_length = 0
    cache.crop(0)
    for layer in sliding:
        layer.is_initialized, layer.cumulative_length = False, 0
