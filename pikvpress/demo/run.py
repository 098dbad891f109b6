"""Answer questions about a document with several presses, and record the results."""

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
    """The result of one press.

    Attributes
    ----------
    name : str
        Name of the press.
    ratio : float
        Requested share to remove, of the tokens, or of the bytes for a `PiKVPress`.
    answers : list of str
        One answer per question.
    tokens_kept : int
        Tokens of the document that are kept, mean over layers and heads.
    bytes_full, bytes_kept : int
        Bytes of the document's keys and values before and after compression.
    seconds : float
        Time to read the document and answer all questions.
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
        Name of the press.
    press : BasePress or None
        The press; None keeps everything.
    ratio : float
        Share that the press is requested to remove, of the tokens, or of the bytes for a `PiKVPress`.
    """

    name: str
    press: BasePress | None
    ratio: float

    def cache(self) -> Cache:
        """Return an empty cache: a PiKVCache for our presses, a DynamicCache for the others."""
        return PiKVCache() if isinstance(self.press, MoERouterPress | PiKVPress) else DynamicCache()


FEWER_BYTES = (0.875, 0.9375)  # 1/8 and 1/16 of the bytes are left


def contestants(ratios: list[float], router: str) -> list[Run]:
    """Return all runs: the full cache, three kvpress presses and MoERouterPress at each ratio, and PiKVPress."""
    runs = [Run("full cache", None, 0.0)]
    for ratio in ratios:
        routed = MoERouterPress(ratio, router_type=router)  # created first, since it validates the ratio for all
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
    """Answer all questions in each run.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer.
    document : str
        Read once per run, before the press knows the questions.
    questions : list of DemoQuestion
        Asked in turn, each with the cache of the document.
    runs : list of Run
        From `contestants`.
    progress : callable
        Called with the name of each run before it starts, and with "" after the last one.
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
