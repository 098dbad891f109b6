"""One prefill for many presses: compression happens after attention, so it does not change what is read."""

from __future__ import annotations

from typing import Any

import torch
from kvpress import BasePress
from kvpress.utils import extract_keys_and_values
from transformers import DynamicCache, PreTrainedModel

from pikvpress import models


class SharedPrefill:
    """The full cache of a context, and what presses are called with.

    Parameters
    ----------
    model : PreTrainedModel
        Prefills once; its hooks are removed again.
    context : list of int
        Token ids.
    """

    def __init__(self, model: PreTrainedModel, context: list[int]):
        self.model, self.length = model, len(context)
        self._calls: list[tuple[models.Attention, dict[str, Any]]] = []
        decoder = models.language_model(model)
        handles = []
        for attention in models.attention_layers(model):
            attention.rotary_emb = decoder.rotary_emb
            handles.append(attention.register_forward_hook(self._remember, with_kwargs=True))
        self._full = DynamicCache()
        try:
            with torch.no_grad():
                decoder(input_ids=torch.tensor([context], device=model.device), past_key_values=self._full)
        finally:
            for handle in handles:
                handle.remove()

    def cache(self, press: BasePress | None) -> DynamicCache:
        """Return a new cache as the press would leave it; the full one without a press."""
        compressed = DynamicCache()
        with torch.no_grad():
            for index, (module, kwargs) in enumerate(self._calls):
                keys, values = extract_keys_and_values(self._full, index)
                if press is not None:
                    keys, values = press.compress(module, kwargs["hidden_states"], keys, values, None, kwargs)
                compressed.update(keys.clone(), values.clone(), index)
        return compressed

    def log_probabilities(self, cache: DynamicCache, future: list[int]) -> torch.Tensor:
        """Return log probabilities of the token after each of ``future``, shape (tokens, vocabulary)."""
        ids = torch.tensor([future], device=self.model.device)
        positions = torch.arange(self.length, self.length + len(future), device=self.model.device)
        with torch.no_grad():
            logits = self.model(input_ids=ids, past_key_values=cache, position_ids=positions.unsqueeze(0)).logits
        return logits[0].float().log_softmax(dim=-1)

    def _remember(self, module: models.Attention, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        wanted = ("hidden_states", "position_embeddings", "cache_position", "attention_mask")
        self._calls.append((module, {name: kwargs[name] for name in wanted if name in kwargs}))
