"""Answer questions about a document under several presses, and keep count."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from kvpress import BasePress, ExpectedAttentionPress, KeyDiffPress, KVPressTextGenerationPipeline, SnapKVPress
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from pikvpress.demo.facts import Question
from pikvpress.memory import cache_bytes
from pikvpress.presses import MoERouterPress

LONGEST_ANSWER = 24


@dataclass(frozen=True)
class Result:
    """What one press did.

    Attributes
    ----------
    name : str
        Of the press.
    ratio : float
        Share of the tokens it was asked to remove.
    answers : list of str
        One a question.
    tokens_kept : int
        Per layer and head, of the document.
    bytes_full, bytes_kept : int
        Keys and values of the document before and after.
    seconds : float
        Reading the document and answering all questions.
    """

    name: str
    ratio: float
    answers: list[str]
    tokens_kept: int
    bytes_full: int
    bytes_kept: int
    seconds: float


def contestants(ratios: list[float], router: str) -> list[tuple[str, BasePress | None, float]]:
    """Return name, press and ratio of every run: the full cache, three kvpress presses, MoERouterPress."""
    runs: list[tuple[str, BasePress | None, float]] = [("full cache", None, 0.0)]
    for ratio in ratios:
        routed = MoERouterPress(ratio, router_type=router)  # first, since it checks the ratio for all
        for press in (SnapKVPress(ratio), ExpectedAttentionPress(ratio), KeyDiffPress(ratio)):
            runs.append((type(press).__name__, press, ratio))
        runs.append(("MoERouterPress", routed, ratio))
    return runs


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    document: str,
    questions: list[Question],
    runs: list[tuple[str, BasePress | None, float]],
    progress: Callable[[str], None],
) -> list[Result]:
    """Answer all questions in every run.

    Parameters
    ----------
    model, tokenizer
        A causal language model.
    document : str
        Read once a run, before the questions are known to the press.
    questions : list of Question
        Asked in turn, each from the cache that the document left.
    runs : list of (str, BasePress or None, float)
        From `contestants`.
    progress : callable
        Called with a run's name before it, and with "" after the last.
    """
    pipeline = KVPressTextGenerationPipeline(model=model, tokenizer=tokenizer)
    results: list[Result] = []
    for name, press, ratio in runs:
        progress(f"{name} {ratio:.0%}" if press else name)
        cache = DynamicCache()
        began = time.perf_counter()
        answers = pipeline(
            document,
            questions=["\n\n" + question.text for question in questions],
            press=press,
            cache=cache,
            max_new_tokens=LONGEST_ANSWER,
        )["answers"]
        seconds = time.perf_counter() - began
        held = cache_bytes(cache)
        full = results[0].bytes_full if results else held
        results.append(Result(name, ratio, answers, cache.get_seq_length(), full, held, seconds))
    progress("")
    return results
