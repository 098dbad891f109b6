"""Answer questions about a document under several presses, and keep count."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from kvpress import BasePress, ExpectedAttentionPress, KeyDiffPress, KVPressTextGenerationPipeline, SnapKVPress
from transformers import Cache, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from pikvpress.cache import PiKVCache
from pikvpress.demo.facts import DemoQuestion
from pikvpress.memory import cache_bytes
from pikvpress.presses import MoERouterPress, PiKVPress

LONGEST_ANSWER = 24


@dataclass(frozen=True)
class Result:
    """What one press did.

    Attributes
    ----------
    name : str
        Of the press.
    ratio : float
        Share it was asked to remove, of the tokens, or of the bytes for a `PiKVPress`.
    answers : list of str
        One a question.
    tokens_kept : int
        Of the document, mean over layers and heads.
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


class Run(NamedTuple):
    """A way to read the document.

    Attributes
    ----------
    name : str
        Of the press.
    press : BasePress or None
        None keeps everything.
    ratio : float
        Share that the press is asked to remove: of the tokens, or of the bytes for a `PiKVPress`.
    """

    name: str
    press: BasePress | None
    ratio: float

    def cache(self) -> Cache:
        """Return an empty cache: for our presses one that holds what they leave."""
        return PiKVCache() if isinstance(self.press, MoERouterPress | PiKVPress) else DynamicCache()


FEWER_BYTES = (0.875, 0.9375)  # an eighth and a sixteenth are left


def contestants(ratios: list[float], router: str) -> list[Run]:
    """Return every run: the full cache; at each ratio three kvpress presses and MoERouterPress; PiKVPress."""
    runs = [Run("full cache", None, 0.0)]
    for ratio in ratios:
        routed = MoERouterPress(ratio, router_type=router)  # first, since it checks the ratio for all
        for press in (SnapKVPress(ratio), ExpectedAttentionPress(ratio), KeyDiffPress(ratio)):
            runs.append(Run(type(press).__name__, press, ratio))
        runs.append(Run("MoERouterPress", routed, ratio))
    return runs + [Run("PiKVPress", PiKVPress(ratio, router_type=router), ratio) for ratio in FEWER_BYTES]


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    document: str,
    questions: list[DemoQuestion],
    runs: list[Run],
    progress: Callable[[str], None],
) -> list[Result]:
    """Answer all questions in every run.

    Parameters
    ----------
    model, tokenizer
        A causal language model.
    document : str
        Read once a run, before the questions are known to the press.
    questions : list of DemoQuestion
        Asked in turn, each from the cache that the document left.
    runs : list of Run
        From `contestants`.
    progress : callable
        Called with a run's name before it, and with "" after the last.
    """
    pipeline = KVPressTextGenerationPipeline(model=model, tokenizer=tokenizer)
    results: list[Result] = []
    for one in runs:
        progress(f"{one.name} {one.ratio:.0%}" if one.press else one.name)
        cache = one.cache()
        began = time.perf_counter()
        answers = pipeline(
            document,
            questions=["\n\n" + question.text for question in questions],
            press=one.press,
            cache=cache,
            max_new_tokens=LONGEST_ANSWER,
        )["answers"]
        seconds = time.perf_counter() - began
        held = cache.nbytes if isinstance(cache, PiKVCache) else cache_bytes(cache)
        full = results[0].bytes_full if results else held
        results.append(Result(one.name, one.ratio, answers, _tokens_kept(cache), full, held, seconds))
    progress("")
    return results


def _tokens_kept(cache: Cache) -> int:
    if not isinstance(cache, PiKVCache):
        return cache.get_seq_length()
    counts = [count for layer in cache.layers for row in layer.counts() for count in row]
    return round(sum(counts) / len(counts))
