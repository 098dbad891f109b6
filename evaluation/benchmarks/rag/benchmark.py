"""Sentences to be completed from documents that a retriever finds, and the model's predictions along them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from evaluation.benchmarks.benchmark import AnswerBenchmark, Measure, Request, chosen_tasks, drawn
from evaluation.benchmarks.by_task import by_task
from evaluation.benchmarks.fidelity import Fidelity
from evaluation.benchmarks.rag import retrieval
from evaluation.benchmarks.rag.corpus import corpus
from evaluation.benchmarks.token_f1 import english_f1, normalized
from evaluation.prompts import total_tokens
from evaluation.rows import Row
from evaluation.schema import TOKENS_READ
from pikvpress.prompts import token_ids

TASKS = ("manual", "scripture")
OWN = ("texts",)
SENTENCE = re.compile(r"[A-Z][^.?!]{60,220}[.?!]")
QUESTION = "\n\nHow does this sentence from the texts above go on, word for word?"
BETWEEN = "\n\n"
MOST = 64  # documents at most
MORE = 4  # tokens of an answer beyond those of the correct one


class Rag(AnswerBenchmark):
    """Retrieval: a sentence of one document of a corpus, of which the model is given the first half.

    The corpora are the topics of the Python manual and the King James Bible, or the texts in a folder of one's own, in
    documents of at most 120 words. BM25 finds documents for the first half of the sentence; as many of the best ones as
    fit into the length are the context, in random order. The document with the sentence may not be among them: a row
    says whether it is (`found`).
    """

    name = "rag"
    by_length = True
    generated = True
    of_documents = True
    measures = (
        Measure("f1", "F1 of words (%)", True),
        Measure("exact", "exact (%)", True),
        TOKENS_READ,
    )

    def rows(self, request: Request) -> list[Row]:
        return rows(self.name, request)

    def score(self, row: Row, prediction: str) -> dict[str, float]:
        given = first_sentence(prediction)
        same = normalized(given) == normalized(row.answer)
        return {"f1": 100 * english_f1(given, row.answer), "exact": 100.0 * same}

    def metrics(self, rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return the means by task."""
        results = {}
        for task, answered in sorted(by_task(rows, predictions).items()):
            scores = [self.score(row, prediction) for row, prediction in answered]
            results[task] = {name: sum(score[name] for score in scores) / len(scores) for name in ("f1", "exact")}
        return results


class RagFidelity(Fidelity):
    """The same questions: predictions along question and correct answer against those after reading all documents."""

    name = "rag_fidelity"
    of_documents = True

    def rows(self, request: Request) -> list[Row]:
        return rows(self.name, request)


def rows(benchmark: str, request: Request) -> list[Row]:
    """Return `Request.samples` rows per task.

    Raises
    ------
    ValueError
        If the length is missing or too short for two documents, or the retriever is not installed.
    FileNotFoundError
        If texts are missing.
    """
    if request.length is None:
        raise ValueError("rag supports any length: specify one, for example --length 1024")
    tasks = chosen_tasks(benchmark, request.tasks, TASKS if request.data is None else OWN)
    return drawn(request, tasks, make_row)


def make_row(task: str, request: Request, rng: random.Random) -> Row:
    """Return a question with the documents that are found for it."""
    documents = corpus(task, request.data)
    number, sentence = _drawn(documents, rng)
    words = sentence.split()
    begun, answer = " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])
    limit = len(token_ids(request.tokenizer, answer)) + MORE
    order = retrieval.ranked(documents, begun, MOST)
    taken: list[int] = []

    def row(chosen: Sequence[int]) -> Row:
        starts, context = [], ""
        for one in chosen:
            starts.append(len(context))
            context += documents[one] + BETWEEN
        extras = {"starts": starts, "found": number in chosen}
        return Row(context, QUESTION, begun, answer, limit, task, extras)

    for one in order:
        if total_tokens(request.tokenizer, row([*taken, one])) > (request.length or 0):
            break
        taken.append(one)
    if len(taken) < 2:
        raise ValueError(f"length {request.length} is too short for two documents of {task!r}: use 1024 or more")
    rng.shuffle(taken)
    return row(taken)


def first_sentence(text: str) -> str:
    """Return an answer up to the end of its first sentence."""
    flat = " ".join(text.split())
    end = re.search(r"[.?!]", flat)
    return flat[: end.end()] if end else flat


def _drawn(documents: Sequence[str], rng: random.Random) -> tuple[int, str]:
    """Return a random document that has a sentence, and one of its sentences."""
    for number in rng.sample(range(len(documents)), len(documents)):
        sentences = SENTENCE.findall(" ".join(documents[number].split()))
        if sentences:
            return number, rng.choice(sentences)
    raise ValueError("no document has a sentence of 60 to 220 characters: use other texts")
