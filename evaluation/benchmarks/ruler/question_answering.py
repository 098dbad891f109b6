"""Questions about a few documents among many: RULER's "qa_1" and "qa_2"."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from evaluation.benchmarks.ruler.fit import Generator
from evaluation.benchmarks.ruler.templates import DOCUMENT, QUESTION_ANSWERING
from evaluation.rows import Row


@dataclass(frozen=True)
class AskedQuestion:
    """A question with its references, the documents that answer it, and documents on the same topic."""

    text: str
    answers: list[str]
    documents: list[str]
    related: list[str]


@dataclass(frozen=True)
class QuestionAnswering(Generator):
    """Numbered and shuffled documents, some of which contain the answer; RULER (https://arxiv.org/abs/2404.06654).

    Sample i asks the i-th question of the data, as in RULER; the other documents are random. Those on the same topic
    are taken first, and all are repeated if necessary.

    Parameters
    ----------
    questions : list of AskedQuestion
        In the data's order.
    documents : list of str
        All documents, each once.
    """

    questions: list[AskedQuestion]
    documents: list[str]

    def least(self, index: int) -> int:
        return len(self._question(index).documents)

    def row(self, rng: random.Random, index: int, units: int) -> Row:
        question = self._question(index)
        near = {*question.documents, *question.related}
        related = rng.sample(question.related, len(question.related))
        far = [text for text in self.documents if text not in near]
        rng.shuffle(far)
        chosen = list(islice(cycle([*question.documents, *related, *far]), units))
        rng.shuffle(chosen)
        text = "\n\n".join(DOCUMENT.format(number=number, text=text) for number, text in enumerate(chosen, start=1))
        return QUESTION_ANSWERING.row(self.task, question.answers, context=text, query=question.text)

    def _question(self, index: int) -> AskedQuestion:
        if index >= len(self.questions):
            raise ValueError(
                f"task {self.task!r} has {len(self.questions)} questions in this data: use at most that many samples"
            )
        return self.questions[index]


def read_squad(path: Path) -> tuple[list[AskedQuestion], list[str]]:
    """Return the answerable questions and all paragraphs of SQuAD's ``dev-v2.0.json``."""

    def read(content: Any) -> tuple[list[AskedQuestion], list[str]]:
        questions = []
        documents = {paragraph["context"] for article in content["data"] for paragraph in article["paragraphs"]}
        for article in content["data"]:
            texts = dict.fromkeys(paragraph["context"] for paragraph in article["paragraphs"])
            for paragraph in article["paragraphs"]:
                own = paragraph["context"]
                related = [text for text in texts if text != own]
                questions += [
                    AskedQuestion(asked["question"], [answer["text"] for answer in asked["answers"]], [own], related)
                    for asked in paragraph["qas"]
                    if not asked["is_impossible"]
                ]
        return questions, sorted(documents)

    return _read(path, read, "SQuAD's dev-v2.0.json")


def read_hotpotqa(path: Path) -> tuple[list[AskedQuestion], list[str]]:
    """Return the questions and all documents of HotpotQA's ``hotpot_dev_distractor_v1.json``."""

    def read(content: Any) -> tuple[list[AskedQuestion], list[str]]:
        questions = []
        for asked in content:
            own = [f"{title}\n{''.join(parts)}" for title, parts in asked["context"]]
            questions.append(AskedQuestion(asked["question"], [asked["answer"]], own, []))
        return questions, sorted({text for question in questions for text in question.documents})

    return _read(path, read, "HotpotQA's hotpot_dev_distractor_v1.json")


def _read(
    path: Path, read: Callable[[Any], tuple[list[AskedQuestion], list[str]]], meant: str
) -> tuple[list[AskedQuestion], list[str]]:
    """Return the result of `read` for a file, or raise an error if it is not the expected file."""
    try:
        questions, documents = read(json.loads(path.read_text(encoding="utf-8")))
        if not questions:
            raise ValueError("it has no questions")
        return questions, documents
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not {meant} ({type(error).__name__}: {error}): download it again") from error
