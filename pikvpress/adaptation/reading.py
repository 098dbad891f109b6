"""A context in a full or a compressed cache, and differentiable predictions along texts that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from kvpress import BasePress
from transformers import DynamicCache, PreTrainedModel

from pikvpress.cache import PiKVCache
from pikvpress.cache.decoded import decoded
from pikvpress.calibration.measure.student import predict


@dataclass(frozen=True)
class ReadContext:
    """A context as a model has read it.

    Parameters
    ----------
    cache : DynamicCache
        What is left of it: keys and values as they would be decoded, heads padded to the longest of their layer.
    kept : dict of int to torch.Tensor
        By layer, 1 for what is left and 0 for padding, shape (kv_heads, entries). Layers without padding are not in it.
    length : int
        Number of tokens of the context.
    """

    cache: DynamicCache
    kept: dict[int, torch.Tensor]
    length: int

    def predictions(self, model: PreTrainedModel, text: Sequence[int]) -> torch.Tensor:
        """Return log probabilities of the next token after each token of a text, shape (tokens, vocabulary).

        Gradients flow to the parameters of the model through what it computes for the text, not through the context.

        Parameters
        ----------
        model : PreTrainedModel
            The model that has read the context.
        text : sequence of int
            Token ids that follow the context.
        """
        return predict(model, self.cache, self.kept, [text], self.length)[0]


@torch.no_grad()
def read(model: PreTrainedModel, context: Sequence[int], press: BasePress | None = None) -> ReadContext:
    """Read a context.

    Parameters
    ----------
    model : PreTrainedModel
        The model, which is restored at the end.
    context : sequence of int
        Token ids.
    press : BasePress, optional
        What compresses the context; without it, everything is kept.
    """
    cache = PiKVCache()
    around: AbstractContextManager[Any] = nullcontext() if press is None else press(model)
    with around:
        model.model(input_ids=torch.tensor([context], device=model.device), past_key_values=cache)
    cache.settle()
    left, kept = DynamicCache(), {}
    for index, layer in enumerate(cache.layers):
        keys, values, missing = decoded(layer)
        left.update(keys, values, index)
        if missing is not None and missing.any():
            kept[index] = (~missing).float()
    return ReadContext(left, kept, len(context))
