"""Prefill in chunks with a press: only the first chunk is compressed, which is said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from transformers import GenerationMixin, PreTrainedModel

from pikvpress import models

logger = logging.getLogger(__name__)


def install() -> None:
    """Stand in front of what reads a prompt in `generate`; it does the same, and warns."""
    name = "_prefill" if hasattr(GenerationMixin, "_prefill") else "_prefill_chunking"
    read = getattr(GenerationMixin, name, None)
    if read is not None and not hasattr(read, "__wrapped__"):
        setattr(GenerationMixin, name, _warning(read))


def _warning(read: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(read)
    def prefill(
        self: PreTrainedModel, input_ids: torch.Tensor, generation_config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        size = generation_config.prefill_chunk_size
        if size is not None and size < input_ids.shape[-1]:
            for press in models.presses_on(self):
                logger.warning_once(  # type: ignore[attr-defined]
                    f"{type(press).__name__} compresses only the first chunk of the prompt and keeps others whole: "
                    "generate without prefill_chunk_size to have all of it compressed"
                )
        return read(self, input_ids, generation_config, *args, **kwargs)

    return prefill
