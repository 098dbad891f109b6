"""Needles in a haystack: RULER's eight retrieval tasks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from evaluation.benchmarks.ruler.draws import distinct, random_uuid, seven_digits, two_words
from evaluation.benchmarks.ruler.essay_haystack import sentences
from evaluation.benchmarks.ruler.fit import Generator
from evaluation.benchmarks.ruler.templates import NEEDLE, NEEDLES, NOISE, ONE_NEEDLE
from evaluation.rows import Row

KINDS: dict[str, Callable[[random.Random], str]] = {
    "numbers": seven_digits,
    "words": two_words,
    "uuids": random_uuid,
}
# Positions of needles in essays, in percent of the sentences.
DEPTHS = [round(100 * step / 39) for step in range(40)]
# RULER begins at 500 words of essays, which do not fit 1k tokens together with the answer; its 5 lines are kept.
LEAST_WORDS, LEAST_LINES = 100, 5


@dataclass(frozen=True)
class Needles(Generator):
    """Key-value sentences to retrieve; "NIAH" of RULER (https://arxiv.org/abs/2404.06654).

    Parameters
    ----------
    haystack : str
        "noise" (one line, repeated), "essay", or "needle" (needles that are not asked for).
    key_kind, value_kind : str
        Kinds of keys and values, from `KINDS`.
    keys : int
        Number of different keys.
    values : int
        Number of values per key.
    queries : int
        Number of keys that are asked for.
    """

    haystack: str
    key_kind: str = "words"
    value_kind: str = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1

    def least(self, index: int) -> int:
        return LEAST_WORDS if self.haystack == "essay" else LEAST_LINES

    def row(self, rng: random.Random, index: int, units: int) -> Row:
        keys = distinct(lambda: KINDS[self.key_kind](rng), self.keys)
        values = distinct(lambda: KINDS[self.value_kind](rng), self.keys * self.values)
        asked = rng.sample(range(self.keys), self.queries)
        needles = [self._needle(keys[at // self.values], value) for at, value in enumerate(values)]
        rng.shuffle(needles)
        if self.haystack == "essay":
            context = self._between_sentences(rng, needles, sentences(units))
        elif self.haystack == "noise":
            context = self._between_lines(rng, needles, [NOISE] * units)
        else:
            context = self._between_lines(rng, needles, self._distractors(rng, keys, values, units))

        names = [keys[at] for at in asked]
        template, kind = NEEDLES, self.value_kind
        if self.queries * self.values == 1:
            template, kind = ONE_NEEDLE, self.value_kind.removesuffix("s")
        return template.row(
            self.task,
            [value for at in asked for value in values[at * self.values : (at + 1) * self.values]],
            kind=kind,
            context=context,
            query=", ".join(names[:-1]) + ", and " + names[-1] if len(names) > 1 else names[0],
        )

    def _needle(self, key: str, value: str) -> str:
        return NEEDLE.format(kind=self.value_kind, key=key, value=value)

    def _distractors(self, rng: random.Random, keys: list[str], values: list[str], count: int) -> list[str]:
        """Return needles with other keys and values; separately seeded, so that more lines begin with the same ones."""
        lines = random.Random(rng.getrandbits(64))
        other = random.Random(rng.getrandbits(64))
        more_keys = distinct(lambda: KINDS[self.key_kind](lines), count + len(keys))
        more_values = distinct(lambda: KINDS[self.value_kind](other), count + len(values))
        free_keys = [key for key in more_keys if key not in keys]
        free_values = [value for value in more_values if value not in values]
        return [self._needle(free_keys[at], free_values[at]) for at in range(count)]

    @staticmethod
    def _between_lines(rng: random.Random, needles: list[str], lines: list[str]) -> str:
        """Return the lines with each needle inserted before one of them, drawn without repetition."""
        places = sorted(rng.sample(range(len(lines)), len(needles)), reverse=True)
        for place, needle in zip(places, needles, strict=True):
            lines.insert(place, needle)
        return "\n".join(lines)

    @staticmethod
    def _between_sentences(rng: random.Random, needles: list[str], text: list[str]) -> str:
        """Return the sentences with each needle at a different depth; RULER's spaces at the ends are kept."""
        depths = sorted(rng.sample(DEPTHS, len(needles)))
        places = [0, *(len(text) * depth // 100 for depth in depths), len(text)]
        parts = []
        for at, needle in enumerate(needles):
            parts += [" ".join(text[places[at] : places[at + 1]]), needle]
        return " ".join([*parts, " ".join(text[places[-2] :])])
