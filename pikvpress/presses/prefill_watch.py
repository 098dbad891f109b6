"""Hooks around a model's prefill: reject what cannot be compressed, and measure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pikvpress import assisted, models
from pikvpress.cache import PiKVCache
from pikvpress.devices import devices_of
from pikvpress.moe import ExpertChoice, choices_seen
from pikvpress.presses.checks import refuse_static
from pikvpress.ranks import HeadShard, shard_of
from pikvpress.routing.recorder import Recorder


class PrefillWatch:
    """Check every context before the model reads it, and measure its prefill and the result.

    If several tokens are read at once right after the context, they are treated as part of it: chunks, or a question.
    They are all kept, and counted.

    Parameters
    ----------
    press : BasePress
        The press; at ratio 0 it accepts any context.
    shortest : int
        Minimum number of tokens that the press can compress.
    record : Recorder
        Records every new prefill, its time and bytes, the tokens read after it, and the load of the model's own experts
        in both.
    """

    def __init__(self, press: Any, shortest: int, record: Recorder):
        self._press, self._shortest, self._record = press, shortest, record
        self._span: Any = None
        self._reading = False  # whether the latest forward read the context or a continuation of it
        self._real: torch.Tensor | None = None  # which of its tokens are no padding, if some are

    @contextmanager
    def on(self, model: PreTrainedModel) -> Iterator[None]:
        """Hook a model; hooks, and the rotary embedding on attention modules, are removed at the end.

        Raises
        ------
        ValueError
            From the model's forward, for a static cache, an empty context or one that is too short.
        """
        decoder, shard = models.language_model(model), shard_of(models.attention_layers(model)[0])
        handles = [
            decoder.register_forward_pre_hook(partial(self._before, model), with_kwargs=True),
            decoder.register_forward_hook(partial(self._after, shard), with_kwargs=True, always_call=True),
        ]
        with models.hooked(handles), models.rotary_at_hand(model), choices_seen(model, self._chosen):
            yield

    def _before(self, model: PreTrainedModel, module: nn.Module, args: tuple, kwargs: dict) -> None:
        tokens = _input_tokens(args, kwargs)
        cache = kwargs.get("past_key_values")
        refuse_static(cache)
        if tokens is None:
            return
        length, shortest_row = tokens.shape[1], _shortest_row(tokens, kwargs.get("attention_mask"))
        self._real = _real_tokens(tokens, kwargs.get("attention_mask"))
        if cache is not None and cache.get_seq_length() > 0:
            self._reading = self._reading and length > 1 and not assisted.is_running(model)
            if self._reading:
                self._record.continued(length)
            return
        if length == 0:
            raise ValueError("the context is empty: give at least one token")
        if self._press.compression_ratio and shortest_row < self._shortest:
            raise ValueError(
                f"the context has {shortest_row} tokens, but the experts need at least {self._shortest}: use a longer "
                "context, omit experts, or set compression_ratio=0"
            )
        self._record.reset()
        self._reading = True
        elsewhere = {device for device in devices_of(model) if device.type == "cuda"}
        self._span = self._record.prefill.span(*elsewhere | {tokens.device})
        self._span.__enter__()

    def _chosen(self, layer: int, choice: ExpertChoice) -> None:
        if self._reading:
            self._record.chosen(layer, choice, self._real)

    def _after(self, shard: HeadShard, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if self._span is not None:
            self._span.__exit__(None, None, None)
            self._span = None
        cache = kwargs.get("past_key_values")
        if self._reading and output is not None and isinstance(cache, PiKVCache):
            cache.settle()
            of_ranks = shard.collected([layer.nbytes for layer in cache.layers])
            self._record.held([sum(sizes) for sizes in zip(*of_ranks, strict=True)])


def _shortest_row(tokens: torch.Tensor, mask: Any) -> int:
    """Return the number of tokens in the shortest row of a batch, without padding if a mask of 0 and 1 says which."""
    if not isinstance(mask, torch.Tensor) or mask.shape != tokens.shape[:2]:
        return tokens.shape[1]
    return int((mask != 0).sum(dim=1).min()) or tokens.shape[1]  # a row without tokens has its own error


def _real_tokens(tokens: torch.Tensor, mask: Any) -> torch.Tensor | None:
    """Return which tokens of a batch are no padding, bool, shape (batch * tokens,), if a mask of 0 and 1 says so."""
    batch, length = tokens.shape[:2]
    if not isinstance(mask, torch.Tensor) or mask.dim() != 2 or len(mask) != batch or mask.shape[1] < length:
        return None
    return (mask[:, -length:] != 0).flatten()


def _input_tokens(args: tuple, kwargs: dict) -> torch.Tensor | None:
    """Return the token ids (batch, tokens) or embeddings (batch, tokens, hidden) that a decoder was called with."""
    if kwargs.get("input_ids") is not None:
        return kwargs["input_ids"]
    if kwargs.get("inputs_embeds") is not None:
        return kwargs["inputs_embeds"]
    return args[0] if args else None
