"""Chunked prefill with a press: only the first chunk is compressed, with a warning."""

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
    """Wrap the prefill of `generate` to issue the warning."""
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
                    f"{type(press).__name__} compresses only the first chunk of the prompt and keeps the others: "
                    "generate without prefill_chunk_size to compress the entire prompt"
                )
        return read(self, input_ids, generation_config, *args, **kwargs)

    return prefill
