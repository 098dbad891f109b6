"""Rows of the continuation benchmark: a prompt, and a text that follows it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

from evaluation.benchmarks.benchmark import Request
from evaluation.benchmarks.fidelity.samples import NAMES
from evaluation.rows import Row
from evaluation.texts import dialogue, essays, library
from pikvpress.prompts import token_ids

FACTS = 4  # stated in the first third of a continuation, and asked for at its end
LEAST = 64  # tokens of a prompt
SOURCES: dict[str, Callable[[], str]] = {"prose": essays, "code": library, "dialogue": dialogue, "recall": essays}
TASKS = tuple(SOURCES)


def make_row(task: str, request: Request, rng: random.Random) -> Row:
    """Return a row of a task: the prompt is its context, what is measured its answer, and what is not its question.

    Raises
    ------
    ValueError
        If the length is missing, or too short for the continuation.
    """
    length, continued = request.length or 0, request.continued or 3 * (request.length or 0) // 4
    text = _tokens(request.tokenizer, SOURCES[task]())
    asked = _asked(request, rng) if task == "recall" else ("", "")
    taken = sum(len(_tokens(request.tokenizer, part)) for part in asked)
    body = continued - taken
    # A text that is cut elsewhere than its tokens may take a few more of them.
    prompt = length - continued - length // 64
    if prompt < LEAST or body < 2 * taken + LEAST:
        raise ValueError(
            f"length {length} with a continuation of {continued} tokens is too short for task {task!r} of "
            f"continuation: use prompts of {LEAST + length // 64} tokens or more, and continuations of "
            f"{3 * taken + LEAST} or more"
        )
    start = rng.randrange(len(text) - prompt - body)
    context, after = (
        _text(request, text[first:last])
        for first, last in ((start, start + prompt), (start + prompt, start + prompt + body))
    )
    if task != "recall":
        return Row(context, "", "", after, continued, task, chat=False)
    told, answers = asked
    places = sorted(rng.randrange(len(after) // 3) for _ in range(FACTS))
    facts = told.splitlines(keepends=True)
    pieces = [after[first:last] for first, last in zip([0, *places], [*places, len(after)], strict=True)]
    question = pieces[0] + "".join(f"\n{fact}{piece}" for fact, piece in zip(facts, pieces[1:], strict=True))
    return Row(context, question, "", answers, continued, task, chat=False)


def _asked(request: Request, rng: random.Random) -> tuple[str, str]:
    """Return facts, one a line, and questions about them with answers, in another order."""
    numbers = {name: rng.randrange(10**6, 10**7) for name in rng.sample(NAMES, FACTS)}
    told = "".join(f"The special number of the {name} is {number}.\n" for name, number in numbers.items())
    order = rng.sample(sorted(numbers), FACTS)
    answers = "".join(
        f"\nWhat is the special number of the {name}?\nThe special number of the {name} is {numbers[name]}.\n"
        for name in order
    )
    return told, answers


@cache
def _tokens(tokenizer: object, text: str) -> tuple[int, ...]:
    return tuple(token_ids(tokenizer, text))  # type: ignore[arg-type]


def _text(request: Request, ids: tuple[int, ...]) -> str:
    return str(request.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
