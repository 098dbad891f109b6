"""Reading a continuation under a ceiling: predictions after every token, and what was held at every step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from evaluation.benchmarks.continuation.benchmark import measured
from evaluation.benchmarks.fidelity.comparison import compare
from evaluation.held import HeldPress, Room
from evaluation.prefilling import wait
from evaluation.presses import PressSpec
from evaluation.schema import check_measures
from evaluation.study import Study
from evaluation.units import Sample, Unit
from pikvpress import PiKVCache

Job = tuple[PressSpec, float | None]


@dataclass(frozen=True)
class ContinuationRead:
    """A continuation that was read.

    Parameters
    ----------
    predicted : torch.Tensor
        Log probabilities after every measured token, shape (tokens, vocabulary).
    seconds : float
        Time of reading all of the continuation, without the prompt.
    prefill_seconds : float
        Time of reading the prompt.
    most_bytes : int
        The most bytes that the cache held after any reading.
    held : float
        Entries of a head at the end, on average.
    """

    predicted: torch.Tensor
    seconds: float
    prefill_seconds: float
    most_bytes: int
    held: float


class ContinuationRun:
    """One prompt with its continuation, read under every ceiling.

    Parameters
    ----------
    study, model, tokenizer, unit
        The study, the model with its tokenizer, and the unit to run.
    """

    def __init__(self, study: Study, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, unit: Unit):
        self._model, self._unit = model, unit
        self._teacher: dict[str, torch.Tensor] = {}

    def records(self, chunks: list[list[Job]]) -> Iterator[list[dict[str, Any]]]:
        """Yield the records of each chunk of jobs.

        Raises
        ------
        ValueError
            If a cache holds more than it may at any step, or a press fails; the message names press and sample.
        """
        for chunk in chunks:
            yield [self._record(sample, *job) for sample in self._unit.samples for job in chunk]

    def _record(self, sample: Sample, press: PressSpec, ratio: float | None) -> dict[str, Any]:
        """Return the columns of a finished sample, as defined in `evaluation.schema`, and its measures."""
        future, unmeasured = [*sample.question, *sample.answer], len(sample.question)
        total = len(sample.context) + len(future)
        full = total * self._bytes_of_token
        made = press.make(ratio)
        room = None
        if isinstance(made, HeldPress):
            share = 1 - (ratio or 0)
            room = Room(int(share * total), int(share * full), len(sample.context), self._unit.settings.at_once)
        try:
            found = self._read(sample.context, future, unmeasured, made if isinstance(made, HeldPress) else None, room)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ValueError(
                f"press {press.name} failed on sample {sample.name} of {self._unit.settings.name} at ratio {ratio} "
                f"({total} tokens): {type(error).__name__}: {error}. Omit it, or use other settings; finished samples "
                "are kept"
            ) from error
        if sample.name not in self._teacher:
            self._teacher[sample.name] = self._full(sample.context, future, unmeasured)
        comparison = compare(self._teacher[sample.name], found.predicted, sample.answer)
        measures = measured(comparison, len(future) / found.seconds)
        check_measures(self._unit.benchmark.name, self._unit.benchmark.measures, measures)
        return {
            "benchmark": self._unit.settings.name,
            "length": self._unit.length,
            "task": sample.row.task,
            "sample": sample.name,
            "press": press.name,
            "ratio": ratio,
            "context_tokens": total,
            "tokens_kept": round(found.held, 3),
            "bytes_full": full,
            "bytes_held": found.most_bytes,
            "masked": press.strategy.masks,
            "prefill_seconds": round(found.prefill_seconds, 4),
            "press_seconds": 0.0,  # a press takes its time while the text is read: see the speed
            "measures": measures,
            "token_kl": comparison.token_kl,
        }

    @property
    def _bytes_of_token(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        config: Any = self._model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * self._model.dtype.itemsize

    @torch.no_grad()
    def _full(self, context: Sequence[int], future: Sequence[int], unmeasured: int) -> torch.Tensor:
        """Return the predictions of the full cache, which reads everything at once."""
        ids = torch.tensor([[*context, *future]], device=self._model.device)
        logits = self._model(input_ids=ids, logits_to_keep=len(future) - unmeasured).logits
        return logits[0].float().log_softmax(dim=-1)

    @torch.no_grad()
    def _read(
        self, context: Sequence[int], future: Sequence[int], unmeasured: int, press: HeldPress | None, room: Room | None
    ) -> ContinuationRead:
        """Read a prompt and its continuation, and check after every reading that no more is held than may be."""
        device = self._model.device
        cache: Cache = DynamicCache()
        around: AbstractContextManager[Any] = nullcontext()
        if press is not None and room is not None:
            cache, around = press.begin(self._model, room)
        predicted, most, seconds = [], 0, 0.0
        with around:
            began = time.perf_counter()
            self._model.model(input_ids=torch.tensor([context], device=device), past_key_values=cache)
            wait(device)
            prefill_seconds, at = time.perf_counter() - began, len(context)
            for piece in torch.tensor([future], device=device).split(self._unit.settings.at_once, dim=1):
                most = max(most, self._checked(cache, press, room, at))
                positions = torch.arange(at, at + piece.shape[1], device=device).unsqueeze(0)
                began = time.perf_counter()
                logits = self._model(input_ids=piece, past_key_values=cache, position_ids=positions).logits[0]
                wait(device)
                seconds += time.perf_counter() - began
                at += piece.shape[1]
                hidden = max(0, unmeasured - (at - len(context) - piece.shape[1]))
                predicted.append(logits[hidden:].float().log_softmax(dim=-1))
            most = max(most, self._checked(cache, press, room, at))
        return ContinuationRead(torch.cat(predicted), seconds, prefill_seconds, most, _entries(cache))

    def _checked(self, cache: Cache, press: HeldPress | None, room: Room | None, read: int) -> int:
        """Return the bytes that a cache holds, or raise a ``ValueError`` if they are more than they may be."""
        held = cache.nbytes if isinstance(cache, PiKVCache) else _nbytes(cache)
        if press is not None and room is not None and press.counts_bytes and held > room.nbytes:
            raise ValueError(f"it holds {held:,} bytes after {read} tokens, and its ceiling is {room.nbytes:,}")
        return held


def _nbytes(cache: Cache) -> int:
    """Return the bytes of keys and values of a DynamicCache."""
    layers: list[Any] = cache.layers
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


def _entries(cache: Cache) -> float:
    """Return how many entries a head holds, on average."""
    if isinstance(cache, PiKVCache):
        counts = [count for layer in cache.layers for row in layer.counts() for count in row]
    else:
        counts = [layer.keys.shape[2] for layer in cache.layers]  # type: ignore[union-attr]
    return sum(counts) / len(counts)
