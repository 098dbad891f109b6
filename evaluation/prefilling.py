"""Reading a context into a cache, with the environment that presses need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from pikvpress import models
from pikvpress.support.swapped import swapped


def prefill(model: PreTrainedModel, context: Sequence[int], cache: DynamicCache) -> None:
    """Read a context into a cache, without the language-modelling head."""
    with torch.no_grad():
        model.model(input_ids=torch.tensor([context], device=model.device), past_key_values=cache)


@contextmanager
def at_hand(model: PreTrainedModel) -> Iterator[None]:
    """Set the attributes of attention layers that kvpress's presses need, and remove what presses leave there."""
    layers = models.attention_layers(model)
    for layer in layers:
        layer.masked_key_indices = None
    try:
        with models.rotary_at_hand(model):
            yield
    finally:
        for layer in layers:
            layer.masked_key_indices = None


@contextmanager
def tokenizer_by_name(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Provide this tokenizer to presses that load it by the model's name, which fails for a GGUF file."""
    load = AutoTokenizer.from_pretrained

    def from_pretrained(name: str, *args: Any, **kwargs: Any) -> Any:
        return tokenizer if name == model.config.name_or_path else load(name, *args, **kwargs)

    with swapped(AutoTokenizer, from_pretrained=from_pretrained):
        yield


def wait(device: torch.device) -> None:
    """Wait until the device has finished, so that measured times are correct."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
