"""Watching a model's prefill from outside its layers: refuse what cannot be compressed, measure, tidy up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pikvpress import assisted, models
from pikvpress.cache import PiKVCache
from pikvpress.presses.checks import refuse_static
from pikvpress.routing.recorder import Recorder


@contextmanager
def prefill_watch(model: PreTrainedModel, press: Any, shortest: int, recorder: Recorder) -> Iterator[None]:
    """Check every context before the model sees it, measure its prefill and what is left of it; undo one that fails.

    Tokens that are read right after the context, several at once, are taken for more of it: chunks, or a question. They
    are kept whole, and counted.

    Parameters
    ----------
    model : PreTrainedModel
        Hooks are removed at the end, and so is the rotary embedding that kvpress hangs on attention modules.
    press : BasePress
        At ratio 0 any context will do.
    shortest : int
        Fewest tokens that the press can compress.
    recorder : Recorder
        Told of every new prefill, its time, its bytes, and tokens read after it.

    Raises
    ------
    ValueError
        From the model's forward, for a static cache, an empty context or one shorter than `shortest`.
    """
    decoder = models.language_model(model)
    spans: list[Any] = []
    reading = False  # whether the latest forward read the context, or more of it

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        nonlocal reading
        tokens = _input_tokens(args, kwargs)
        cache = kwargs.get("past_key_values")
        refuse_static(cache)
        if tokens is None:
            return
        length = tokens.shape[1]
        if cache is not None and cache.get_seq_length() > 0:
            reading = reading and length > 1 and not assisted.is_running(model)
            if reading:
                recorder.continued(length)
            return
        if length == 0:
            raise ValueError("the context is empty: give at least one token")
        if press.compression_ratio and length < shortest:
            raise ValueError(
                f"the context has {length} tokens, but every expert protects or compares more: it needs at least "
                f"{shortest}: use a longer context, leave the expert out, or set compression_ratio=0"
            )
        recorder.reset()
        reading = True
        span = recorder.prefill.span(tokens.device)
        span.__enter__()
        spans.append(span)

    def after(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        cache = kwargs.get("past_key_values")
        while spans:
            spans.pop().__exit__(None, None, None)
        if reading and output is not None and isinstance(cache, PiKVCache):
            recorder.held([layer.nbytes for layer in cache.layers])

    handles = [
        decoder.register_forward_pre_hook(before, with_kwargs=True),
        decoder.register_forward_hook(after, with_kwargs=True, always_call=True),
    ]
    with models.hooked(handles), models.emptied_on_error(model), models.rotary_at_hand(model):
        yield


def _input_tokens(args: tuple, kwargs: dict) -> torch.Tensor | None:
    """Return the token ids (batch, tokens) or embeddings (batch, tokens, hidden) that a decoder was called with."""
    if kwargs.get("input_ids") is not None:
        return kwargs["input_ids"]
    if kwargs.get("inputs_embeds") is not None:
        return kwargs["inputs_embeds"]
    return args[0] if args else None
