"""Reuse of the queries and keys that a layer has projected for its own attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel

from pikvpress import models


class ProjectionTap:
    """Hold the latest outputs of a layer's query and key projections until they are taken.

    Projecting the context to queries again costs as much as the layer's own projection, a twelfth of the prefill of a
    small model. Only one layer's outputs are held at a time, until the layer is compressed.
    """

    def __init__(self) -> None:
        self._input: torch.Tensor | None = None
        self._outputs: dict[str, torch.Tensor] = {}

    @contextmanager
    def on(self, model: PreTrainedModel) -> Iterator[None]:
        """Hook the projections of a model's attention layers."""
        handles = [
            getattr(attention, name).register_forward_hook(partial(self._keep, name))
            for attention in models.attention_layers(model)
            for name in models.PROJECTIONS
            if hasattr(attention, name)
        ]
        try:
            with models.hooked(handles):
                yield
        finally:
            self.take(None)

    def take(self, hidden_states: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Return and release the outputs for exactly these hidden states, by projection, if there are any."""
        outputs = self._outputs if hidden_states is not None and hidden_states is self._input else {}
        self._input, self._outputs = None, {}
        return outputs

    def _keep(self, name: str, module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        if args[0] is not self._input:
            self._input, self._outputs = args[0], {}
        self._outputs[name] = output.detach()
