"""Where the decoder of a model is: inside adapters, and beside what reads images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel

NAMES = ("language_model", "text_model")  # of the decoder in a model that reads images, too


def unwrapped(model: Any) -> Any:
    """Return the model inside a wrapper of peft, whose adapters are part of its layers; other models as they are.

    Raises
    ------
    ValueError
        If the adapter writes entries of its own into the cache, before the context.
    """
    if isinstance(model, PreTrainedModel) or not hasattr(model, "get_base_model"):
        return model
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError(
            f"the adapter {model.active_adapter!r} puts learned entries before the context, which presses would take "
            "for text: use an adapter of weights, such as LoRA"
        )
    return model.get_base_model()


def language_model(model: PreTrainedModel) -> Any:
    """Return the decoder of a causal language model, or of the language part of a vision-language model."""
    inner = unwrapped(model).model
    return next((getattr(inner, name) for name in NAMES if hasattr(inner, name)), inner)


@contextmanager
def decoder_at_hand(model: PreTrainedModel) -> Iterator[None]:
    """Let kvpress find the decoder of a model, which it expects under the first of `NAMES`; undone on exit."""
    inner, decoder = unwrapped(model).model, language_model(model)
    if decoder is inner or hasattr(inner, NAMES[0]):
        yield
        return
    vars(inner)[NAMES[0]] = decoder  # not as a module, so that the model's parameters keep their names
    try:
        yield
    finally:
        del vars(inner)[NAMES[0]]
