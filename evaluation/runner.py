"""Run a study: every sample from the full cache and from every press at every ratio."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.answering import answer_while_compressing, answers, log_probabilities
from evaluation.benchmarks.fidelity.comparison import compare
from evaluation.benchmarks.registry import BENCHMARKS
from evaluation.compressed import (
    CompressedContext,
    Scores,
    SharedPrefill,
    compress_alone,
    compress_with_weights,
    tokenizer_by_name,
)
from evaluation.journal import Journal
from evaluation.oracle import Foreseen, foresee
from evaluation.presses import FULL_CACHE, PressSpec, parse_press
from evaluation.processes import Place
from evaluation.study import Study
from evaluation.units import Sample, Unit

Job = tuple[PressSpec, float | None]


def jobs(study: Study) -> list[Job]:
    """Return what every context goes through: the full cache, then every press, at every ratio if it has one."""
    everything: list[Job] = [(parse_press(FULL_CACHE), 0.0)]
    everything += [(press, None) for press in study.presses if not press.has_ratio]
    everything += [(press, ratio) for ratio in study.ratios for press in study.presses if press.has_ratio]
    return everything


def run(
    study: Study,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    units: list[Unit],
    journal: Journal,
    place: Place,
) -> None:
    """Evaluate this process's share of the units that are not in the journal yet.

    Raises
    ------
    ValueError
        If a press fails; the message names press and sample. What was finished before is in the journal.
    """
    everything = jobs(study)
    chunks = [everything[i : i + study.batch_size] for i in range(0, len(everything), study.batch_size)]
    mine = units[place.rank :: place.world]
    bar = tqdm(
        mine,
        desc="contexts",
        unit="context",
        disable=place.rank != 0,
        mininterval=0.5 if sys.stderr.isatty() else 60,
    )
    with tokenizer_by_name(model, tokenizer):
        for unit in bar:
            missing = [chunk for chunk in chunks if any(key not in journal.done for key in _keys(unit, chunk))]
            if missing:
                bar.set_postfix_str(f"{unit.part.name} {unit.length or ''} {unit.samples[0].row.task}")
                for records in UnitRun(study, model, tokenizer, unit).records(missing):
                    journal.append(records)


class UnitRun:
    """One context and its questions.

    Parameters
    ----------
    study, model, tokenizer, unit
        What is run, and with what.
    """

    def __init__(self, study: Study, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, unit: Unit):
        self._study, self._model, self._tokenizer, self._unit = study, model, tokenizer, unit
        self._prefill = SharedPrefill(model, unit.context)
        self._full = self._prefill.compress(None)
        self._scores: dict[str, Scores] = {}
        self._at_every_ratio: dict[str, dict[float, CompressedContext]] = {}
        self._teacher: dict[str, torch.Tensor] = {}
        self._foreseen: dict[tuple[str, tuple[str, ...] | None], Foreseen] = {}

    def records(self, chunks: list[list[Job]]) -> Iterator[list[dict[str, Any]]]:
        """Yield the records of each chunk of jobs.

        A chunk is always run whole, so that the same contexts are computed together however often a study was
        interrupted: sums in another order would differ in the last digits.
        """
        for chunk in chunks:
            shared = [
                None if press.entry.looks_ahead else self._compressed(press, ratio).sharing(self._full)
                for press, ratio in chunk
            ]
            records = []
            for sample in self._unit.samples:
                contexts = [
                    self._compressed(press, ratio, sample) if context is None else context
                    for (press, ratio), context in zip(chunk, shared, strict=True)
                ]
                results = self._results(sample, chunk, contexts)
                for (press, ratio), context, result in zip(chunk, contexts, results, strict=True):
                    records.append(self._record(sample, press, ratio, context) | result)
            yield records

    def _compressed(self, press: PressSpec, ratio: float | None, told: Sample | None = None) -> CompressedContext:
        """Return the context as a press leaves it; an oracle is told the sample."""
        if press.name == FULL_CACHE or press.entry.decodes:
            return self._full
        sample = (told or self._unit.samples[0]).name
        seed = zlib.crc32(f"{self._study.seed}/{sample}/{press.name}/{ratio}".encode())
        try:
            with torch.random.fork_rng(devices=_cuda(self._model)):
                torch.manual_seed(seed)
                if told is None:
                    return self._compress(press, ratio)
                return self._foretold(press, ratio, told)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ValueError(
                f"press {press.name} failed on sample {sample} of {self._unit.part.name} "
                f"({len(self._unit.context)} tokens): {type(error).__name__}: {error}. Leave it out, or give it "
                "settings that fit; finished samples are kept"
            ) from error

    def _foretold(self, press: PressSpec, ratio: float | None, told: Sample) -> CompressedContext:
        oracle: Any = press.make(ratio)
        key = (told.name, oracle.experts)
        if key not in self._foreseen:
            future, seed = [*told.question, *told.answer], zlib.crc32(f"{self._study.seed}/{told.name}".encode())
            self._foreseen = {
                key: foresee(self._model, self._unit.context, future, oracle.experts, self._study.ratios, seed)
            }
        return oracle.compress_knowing(self._foreseen[key])

    def _compress(self, press: PressSpec, ratio: float | None) -> CompressedContext:
        entry, study = press.entry, self._study
        if entry.shares and study.share_prefill:
            scores = self._scores.setdefault(press.name, Scores()) if entry.scores_once else None
            return self._prefill.compress(press.make(ratio), scores)
        if entry.reads_weights or (entry.scores_once and not entry.shares):
            if press.name not in self._at_every_ratio:
                contexts = self._for_every_ratio(press)
                self._at_every_ratio[press.name] = dict(zip(study.ratios, contexts, strict=True))
            return self._at_every_ratio[press.name][ratio]  # type: ignore[index]
        made: Any = press.make(ratio)
        context = list(self._unit.context)
        if entry.query_aware:  # Finch finds the question behind a token that it then takes out
            made.delimiter_token_id = next(i for i in range(len(self._tokenizer)) if i not in set(context))
            context.insert(self._unit.samples[0].context_only, made.delimiter_token_id)
        return compress_alone(self._model, context, made, self._prefill.seconds)[0]

    def _for_every_ratio(self, press: PressSpec) -> list[CompressedContext]:
        model, context, ratios = self._model, self._unit.context, self._study.ratios
        presses: Any = [press.make(ratio) for ratio in ratios]
        if press.entry.reads_weights:
            return compress_with_weights(model, context, presses, self._prefill.seconds)
        return compress_alone(model, context, presses[0], self._prefill.seconds, ratios)

    def _results(self, sample: Sample, chunk: list[Job], contexts: list[CompressedContext]) -> list[dict[str, Any]]:
        if BENCHMARKS[self._unit.part.name].teacher_forced:
            return self._compared(sample, contexts)
        return self._answered(sample, chunk, contexts)

    def _compared(self, sample: Sample, contexts: list[CompressedContext]) -> list[dict[str, Any]]:
        future = [*sample.question, *sample.answer]
        if sample.name not in self._teacher:
            self._teacher[sample.name] = next(log_probabilities(self._model, [self._full], future))
        results = []
        for predicted in log_probabilities(self._model, contexts, future):
            comparison = compare(self._teacher[sample.name], predicted, future)
            results.append({"measures": comparison.measures, "token_kl": comparison.token_kl})
        return results

    def _answered(self, sample: Sample, chunk: list[Job], contexts: list[CompressedContext]) -> list[dict[str, Any]]:
        together = [i for i, (press, _) in enumerate(chunk) if not press.entry.decodes]
        limit = sample.row.max_new_tokens
        read = answers(self._model, [contexts[i] for i in together], sample.question, limit) if together else []
        ids = dict(zip(together, read, strict=True))
        for i, (press, ratio) in enumerate(chunk):
            if press.entry.decodes:
                made: Any = press.make(ratio)
                ids[i] = answer_while_compressing(self._model, made, contexts[i], sample.question, limit)
        benchmark: Any = BENCHMARKS[self._unit.part.name]
        results = []
        for i in range(len(chunk)):
            text = str(self._tokenizer.decode(ids[i], skip_special_tokens=True))
            measures = benchmark.score(sample.row, text)
            results.append({"measures": measures, "prediction": text, "new_tokens": len(ids[i])})
        return results

    def _record(
        self, sample: Sample, press: PressSpec, ratio: float | None, context: CompressedContext
    ) -> dict[str, Any]:
        return {
            "benchmark": self._unit.part.name,
            "length": self._unit.length,
            "task": sample.row.task,
            "sample": sample.name,
            "press": press.name,
            "ratio": ratio,
            "context_tokens": len(self._unit.context),
            "tokens_kept": round(context.tokens_kept, 3),
            "bytes_full": self._full.bytes_held,
            "bytes_held": context.bytes_held,
            "masked": press.entry.masks,
            "prefill_seconds": round(self._prefill.seconds, 4),
            "press_seconds": round(context.seconds, 4),
        }


def _keys(unit: Unit, chunk: list[Job]) -> Iterator[tuple]:
    for sample in unit.samples:
        for press, ratio in chunk:
            yield (unit.part.name, unit.length, sample.name, press.name, ratio)


def _cuda(model: PreTrainedModel) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []
