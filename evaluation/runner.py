"""Run a study: every sample with the full cache and with every press at every ratio."""

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
from evaluation.compressed import CompressedContext
from evaluation.compressors import SourceContext
from evaluation.continuing import ContinuationRun
from evaluation.journal import Journal
from evaluation.prefilling import tokenizer_by_name
from evaluation.presses import FULL_CACHE, PressSpec, parse_press
from evaluation.processes import Place
from evaluation.schema import TOKENS_READ, check_measures
from evaluation.study import Study
from evaluation.units import Sample, Unit

Job = tuple[PressSpec, float | None]


def jobs(study: Study) -> list[Job]:
    """Return the jobs for every context: the full cache, then every press, at every ratio if it has one."""
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
        If a press fails; the message names press and sample. Finished samples are in the journal.
    """
    everything = jobs(study)
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
            size = 1 if unit.benchmark.goes_on else study.batch_size  # what goes on is read by itself
            chunks = [everything[i : i + size] for i in range(0, len(everything), size)]
            missing = [chunk for chunk in chunks if any(key not in journal.done for key in _keys(unit, chunk))]
            if missing:
                bar.set_postfix_str(f"{unit.settings.name} {unit.length or ''} {unit.samples[0].row.task}")
                kind: type[ContinuationRun | UnitRun] = ContinuationRun if unit.benchmark.goes_on else UnitRun
                for records in kind(study, model, tokenizer, unit).records(missing):
                    journal.append(records)


class UnitRun:
    """One context and its questions.

    Parameters
    ----------
    study, model, tokenizer, unit
        The study, the model with its tokenizer, and the unit to run.
    """

    def __init__(self, study: Study, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, unit: Unit):
        self._study, self._model, self._tokenizer, self._unit = study, model, tokenizer, unit
        question_at = unit.samples[0].context_only if study.query_aware else None
        self._source = SourceContext(
            model, tokenizer, unit.context, study.ratios, study.seed, question_at, study.share_prefill
        )
        self._teacher: dict[str, torch.Tensor] = {}

    def records(self, chunks: list[list[Job]]) -> Iterator[list[dict[str, Any]]]:
        """Yield the records of each chunk of jobs.

        A chunk is always run completely, so that the same contexts are computed together even after interruptions: sums
        in another order would differ in the last digits.
        """
        for chunk in chunks:
            shared = [
                None if press.strategy.told else self._compressed(press, ratio).sharing(self._source.full)
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
        """Return the context compressed by a press, with its own random numbers."""
        sample = (told or self._unit.samples[0]).name
        seed = zlib.crc32(f"{self._study.seed}/{sample}/{press.name}/{ratio}".encode())
        try:
            with torch.random.fork_rng(devices=_cuda(self._model)):
                torch.manual_seed(seed)
                return press.strategy.compress(press, ratio, self._source, told)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ValueError(
                f"press {press.name} failed on sample {sample} of {self._unit.settings.name} "
                f"({len(self._unit.context)} tokens): {type(error).__name__}: {error}. Omit it, or use other "
                "settings; finished samples are kept"
            ) from error

    def _results(self, sample: Sample, chunk: list[Job], contexts: list[CompressedContext]) -> list[dict[str, Any]]:
        if self._unit.benchmark.teacher_forced:
            return self._compared(sample, contexts)
        return self._answered(sample, chunk, contexts)

    def _compared(self, sample: Sample, contexts: list[CompressedContext]) -> list[dict[str, Any]]:
        future = [*sample.question, *sample.answer]
        if sample.name not in self._teacher:
            self._teacher[sample.name] = next(log_probabilities(self._model, [self._source.full], future))
        results = []
        for predicted in log_probabilities(self._model, contexts, future):
            comparison = compare(self._teacher[sample.name], predicted, future)
            results.append({"measures": comparison.measures, "token_kl": comparison.token_kl})
        return results

    def _answered(self, sample: Sample, chunk: list[Job], contexts: list[CompressedContext]) -> list[dict[str, Any]]:
        limit = sample.row.max_new_tokens
        still = [press.strategy.while_answering(press, ratio) for press, ratio in chunk]
        together = [i for i, press in enumerate(still) if press is None]
        read = answers(self._model, [contexts[i] for i in together], sample.question, limit) if together else []
        ids = dict(zip(together, read, strict=True))
        for i, press in enumerate(still):
            if press is not None:
                ids[i] = answer_while_compressing(self._model, press, contexts[i], sample.question, limit)
        benchmark: Any = self._unit.benchmark
        results = []
        for i in range(len(chunk)):
            text = str(self._tokenizer.decode(ids[i], skip_special_tokens=True))
            measures = benchmark.score(sample.row, text)
            if benchmark.of_documents:
                measures[TOKENS_READ.name] = float(contexts[i].tokens_read)
            check_measures(benchmark.name, benchmark.measures, measures)
            results.append({"measures": measures, "prediction": text, "new_tokens": len(ids[i])})
        return results

    def _record(
        self, sample: Sample, press: PressSpec, ratio: float | None, context: CompressedContext
    ) -> dict[str, Any]:
        """Return the columns of a finished sample, as defined in `evaluation.schema`."""
        return {
            "benchmark": self._unit.settings.name,
            "length": self._unit.length,
            "task": sample.row.task,
            "sample": sample.name,
            "press": press.name,
            "ratio": ratio,
            "context_tokens": len(self._unit.context),
            "tokens_kept": round(context.tokens_kept, 3),
            "bytes_full": self._source.full.bytes_held,
            "bytes_held": context.bytes_held,
            "masked": press.strategy.masks,
            "prefill_seconds": round(self._source.prefilled.seconds, 4),
            "press_seconds": round(context.seconds, 4),
        }


def _keys(unit: Unit, chunk: list[Job]) -> Iterator[tuple]:
    for sample in unit.samples:
        for press, ratio in chunk:
            yield (unit.settings.name, unit.length, sample.name, press.name, ratio)  # in the order of `schema.KEY`


def _cuda(model: PreTrainedModel) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []
