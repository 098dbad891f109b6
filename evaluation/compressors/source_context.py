"""A context to be compressed by many presses."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.compressed import CompressedContext
from evaluation.compressors.prefilled_context import PrefilledContext

T = TypeVar("T")


@dataclass
class SourceContext:
    """A context, prefilled once, with results that presses share.

    Parameters
    ----------
    model, tokenizer
        The model, and its tokenizer.
    context : sequence of int
        Token ids.
    ratios : sequence of float
        Ratios at which presses will be run, in this order.
    seed : int, default=0
        Random seed.
    question_at : int, optional
        Position of the question, in a context that contains it.
    share_prefill : bool, default=True
        Whether the one prefill serves all presses that allow it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context: Sequence[int]
    ratios: Sequence[float]
    seed: int = 0
    question_at: int | None = None
    share_prefill: bool = True
    prefilled: PrefilledContext = field(init=False)
    _kept: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)
    _latest: tuple[Hashable, Any] = field(default=(None, None), init=False, repr=False)

    def __post_init__(self) -> None:
        self.prefilled = PrefilledContext(self.model, self.context, serves=self.share_prefill)

    @cached_property
    def full(self) -> CompressedContext:
        """The full cache."""
        return self.prefilled.compress(None)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result stored under a key, or compute it."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def latest(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the latest result if it has this key, or compute it: for results that are too large to keep."""
        if self._latest[0] != key:
            self._latest = (None, None)
            self._latest = (key, make())
        return self._latest[1]
