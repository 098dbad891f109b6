"""Presses that work layer by layer, and tidy up after a prefill that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from kvpress import BasePress
from transformers import PreTrainedModel

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
        with models.emptied_on_error(model), super().__call__(model):
            yield
