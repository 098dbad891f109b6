"""Contexts with questions and answers that a press never sees, from text that no prior was chosen on."""

from __future__ import annotations

import random
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from benchmarks.texts import code, prose

KINDS = ("needle", "several needles", "key-value", "prose", "code")
NAMES = tuple(
    "anchor beacon cedar drum elbow falcon glacier hammer island jacket kettle lantern marble needle orchard pepper "
    "quarry ribbon saddle timber urchin velvet willow yonder zinnia".split()
)


@dataclass(frozen=True)
class Sample:
    """Token ids of a context and of what follows it."""

    kind: str
    context: list[int]
    future: list[int]


class SampleMaker:
    """Make samples, the same for the same seed.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        With a chat template.
    length : int
        Tokens of a context.
    seed : int
        Of the random choices.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int, seed: int):
        self.tokenizer, self.length = tokenizer, length
        self.random = random.Random(seed)
        self.texts = {"prose": self._ids(prose()), "code": self._ids(code())}
        mark = "<context goes here>"
        message = [{"role": "user", "content": mark}]
        turn = str(tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
        self.before, self.after = turn.split(mark)

    def make(self, kind: str) -> Sample:
        """Return a sample of one of `KINDS`."""
        if kind in self.texts:
            start = self.random.randrange(len(self.texts[kind]) - self.length - 64)
            run = self.texts[kind][start : start + self.length + 64]
            return Sample(kind, run[: self.length], run[self.length :])
        head = self._ids(self.before)
        if kind == "key-value":
            body, question, answer = self._pairs(self.length - len(head))
        else:
            body, question, answer = self._needles(1 if kind == "needle" else 4, self.length - len(head))
        return Sample(kind, head + body, self._ids(f"\n{question}{self.after}{answer}"))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _needles(self, count: int, length: int) -> tuple[list[int], str, str]:
        facts = {name: self.random.randrange(10**6, 10**7) for name in self.random.sample(NAMES, count)}
        needles = [self._ids(f"\nThe special number of the {name} is {number}.\n") for name, number in facts.items()]
        room = length - sum(map(len, needles))
        start = self.random.randrange(len(self.texts["prose"]) - room)
        body = self.texts["prose"][start : start + room]
        for needle in needles:
            place = self.random.randrange(20, len(body) - 20)
            body[place:place] = needle
        name, number = self.random.choice(list(facts.items()))
        return body, f"What is the special number of the {name}?", f"The special number of the {name} is {number}."

    def _pairs(self, length: int) -> tuple[list[int], str, str]:
        pairs: dict[str, int] = {}
        body: list[int] = []
        while True:
            key = f"{self.random.choice(NAMES)}-{self.random.choice(NAMES)}-{self.random.randrange(100)}"
            value = self.random.randrange(1000, 10000)
            line = self._ids(f"{key}: {value}\n")
            if len(body) + len(line) > length:
                key = self.random.choice(list(pairs)[: max(1, 3 * len(pairs) // 4)])
                return body, f"What is the value of {key}?", f"{key}: {pairs[key]}"
            pairs[key] = value
            body += line
