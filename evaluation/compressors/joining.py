"""Contexts of several documents, each of which is read alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from kvpress import BasePress
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.compressed import CompressedContext, taken
from evaluation.compressors.compressor import Compressor
from evaluation.prefilling import at_hand, wait
from pikvpress import PiKVCache, models
from pikvpress.prompts import framed, token_ids

if TYPE_CHECKING:
    from evaluation.compressors.source_context import SourceContext
    from evaluation.presses.spec import PressSpec
    from evaluation.study import Study
    from evaluation.units import Sample


@dataclass(frozen=True)
class Joining(Compressor):
    """Each document is read with the beginning of the prompt and compressed alone, once; their caches are joined.

    The time is that of joining, and tokens that are read for it count as read: documents are compressed beforehand.
    """

    told: ClassVar[bool] = True

    def validate(self, name: str, study: Study) -> None:
        """Reject studies of other contexts than documents, and those that show presses the question."""
        others = [chosen.name for chosen in study.benchmarks if not chosen.benchmark.of_documents]
        if others:
            raise ValueError(
                f"{name} joins documents that are read apart, which the contexts of {others[0]} are not made of: use "
                "the benchmarks rag and rag_fidelity, or omit it"
            )
        if study.query_aware:
            raise ValueError(f"{name} compresses documents before there is a question: omit query_aware")

    def compress(
        self, press: PressSpec, ratio: float | None, source: SourceContext, sample: Sample | None = None
    ) -> CompressedContext:
        """Return the joined context."""
        assert sample is not None
        made: Any = press.make(ratio)
        model, (head, documents) = source.model, documents_of(source.tokenizer, sample)
        ids = [torch.tensor([document], device=model.device) for document in documents]
        caches = source.once(("alone", repr(made.press)), lambda: [_alone(model, one, made.press) for one in ids])
        with tokens_read(model) as read:
            began = time.perf_counter()
            joined = PiKVCache.join(caches, model, ids, head=head, seam=made.seam)
            wait(model.device)
            seconds = time.perf_counter() - began
        return replace(taken(model, None, joined, len(source.context), seconds), read=sum(read))


def documents_of(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> tuple[int, list[list[int]]]:
    """Return how many tokens the beginning of the prompt has, and the ids of each document with these before it.

    The context is cut between tokens, so that joined documents consist of the very tokens of the whole.
    """
    row, ids = sample.row, list(sample.context)
    prompt, _ = framed(tokenizer, row.context, row.chat)
    before = len(prompt) - len(row.context)
    bounds = [len(token_ids(tokenizer, prompt[: before + start])) for start in row.extras["starts"]]
    ends = [*bounds[1:], len(ids)]
    return bounds[0], [ids[: bounds[0]] + ids[first:last] for first, last in zip(bounds, ends, strict=True)]


def _alone(model: PreTrainedModel, ids: torch.Tensor, press: BasePress | None) -> PiKVCache:
    cache = PiKVCache()
    with at_hand(model), torch.no_grad(), nullcontext() if press is None else press(model):
        model.model(input_ids=ids, past_key_values=cache)
        cache.settle()
    return cache


@contextmanager
def tokens_read(model: PreTrainedModel) -> Iterator[list[int]]:
    """Yield a list to which the number of tokens of everything that the model reads is appended."""
    read: list[int] = []

    def count(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        read.append(kwargs["input_ids"].shape[1])

    with models.hooked([models.language_model(model).register_forward_pre_hook(count, with_kwargs=True)]):
        yield read
