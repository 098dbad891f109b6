"""Presses that control the prefill themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from kvpress import BasePress
from transformers import DynamicCache, PreTrainedModel

from evaluation.compressed import CompressedContext, taken
from evaluation.compressors.compressor import Compressor
from evaluation.prefilling import at_hand, prefill, wait

if TYPE_CHECKING:
    from evaluation.compressors.source_context import SourceContext
    from evaluation.presses.spec import PressSpec
    from evaluation.study import Study
    from evaluation.units import Sample


@dataclass(frozen=True)
class OwnPrefill(Compressor):
    """The press is used in the standard way of kvpress: one prefill for each press and ratio."""

    def compress(
        self, press: PressSpec, ratio: float | None, source: SourceContext, sample: Sample | None = None
    ) -> CompressedContext:
        """Return the context compressed by the press."""
        made: Any = press.make(ratio)
        return compress_alone(source.model, source.context, made, source.prefilled.seconds)


@dataclass(frozen=True)
class WithQuestion(OwnPrefill):
    """The press needs to know where the question begins, like Finch: after a delimiter token that is then removed."""

    def validate(self, name: str, study: Study) -> None:
        """Reject studies that hide the question."""
        if not study.query_aware:
            raise ValueError(f"{name} compresses for a known question: add --query-aware, or omit it")

    def compress(
        self, press: PressSpec, ratio: float | None, source: SourceContext, sample: Sample | None = None
    ) -> CompressedContext:
        """Return the context compressed by the press."""
        assert source.question_at is not None
        made: Any = press.make(ratio)
        context, there = list(source.context), set(source.context)
        made.delimiter_token_id = next(i for i in range(len(source.tokenizer)) if i not in there)
        context.insert(source.question_at, made.delimiter_token_id)
        return compress_alone(source.model, context, made, source.prefilled.seconds)


def compress_alone(
    model: PreTrainedModel, context: Sequence[int], press: BasePress, plain_seconds: float
) -> CompressedContext:
    """Return a context compressed by a press that controls the prefill itself.

    Parameters
    ----------
    model, context, press
        The model, the token ids of the context, and the press.
    plain_seconds : float
        Time of a prefill without a press, which is subtracted from the time.
    """
    cache = DynamicCache()
    with timed(model, press, len(context), plain_seconds) as take:
        with torch.no_grad(), press(model):
            prefill(model, context, cache)
        return take(cache)


@contextmanager
def timed(
    model: PreTrainedModel, press: BasePress, length: int, plain_seconds: float
) -> Iterator[Callable[[DynamicCache], CompressedContext]]:
    """Give what takes from a cache what a press has left by then of a context, with the time since the beginning.

    Parameters
    ----------
    model, press
        As used; attention layers have at hand what presses look for.
    length : int
        Tokens of the context.
    plain_seconds : float
        What a prefill takes without a press, subtracted from the time.
    """
    with at_hand(model):
        began = time.perf_counter()

        def take(cache: DynamicCache) -> CompressedContext:
            wait(model.device)
            seconds = max(0.0, time.perf_counter() - began - plain_seconds)
            return taken(model, press, cache, length, seconds)

        yield take
