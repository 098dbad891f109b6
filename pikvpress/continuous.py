"""Continuous batching with a press: refused, since it keeps all texts in one paged cache of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from transformers import GenerationMixin, PreTrainedModel

from pikvpress import models


def install() -> None:
    """Let `generate_batch` and the other ways into continuous batching look for presses on the model."""
    begin = getattr(GenerationMixin, "init_continuous_batching", None)
    if begin is not None and not hasattr(begin, "__wrapped__"):
        GenerationMixin.init_continuous_batching = _without_presses(begin)  # type: ignore[method-assign]


def _without_presses(begin: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(begin)
    def init_continuous_batching(self: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        for press in models.presses_on(self):
            raise ValueError(
                f"{type(press).__name__} cannot compress during continuous batching, where transformers keeps all "
                "texts in one paged cache that presses cannot reach: use generate, with past_key_values=PiKVCache()"
            )
        return begin(self, *args, **kwargs)

    return init_continuous_batching
