"""Rows of the fidelity benchmark: texts with planted facts, or texts with a continuation."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache, partial

from evaluation.benchmarks.benchmark import Request
from evaluation.prompts import encode
from evaluation.rows import Row
from evaluation.texts import essays, library, manual, scripture
from pikvpress.prompts import token_ids

CONTINUED = 64  # number of tokens of a continuation
NAMES = tuple(
    "anchor beacon cedar drum elbow falcon glacier hammer island jacket kettle lantern marble needle orchard pepper "
    "quarry ribbon saddle timber urchin velvet willow yonder zinnia".split()
)


def make_row(task: str, request: Request, rng: random.Random) -> Row:
    """Return a row of a task, with the longest context that fits.

    Raises
    ------
    ValueError
        If the length is missing or too short.
    """
    return TASKS_BY_NAME[task](request, rng)


def total(request: Request, row: Row) -> int:
    """Return the tokens of context, question and answer."""
    return sum(map(len, encode(request.tokenizer, row))) + len(token_ids(request.tokenizer, row.answer))


def _planted(task: str, source: Callable[[], str], keys: int, values: int, request: Request, rng: random.Random) -> Row:
    facts = {name: [rng.randrange(10**6, 10**7) for _ in range(values)] for name in rng.sample(NAMES, keys)}
    needles = [f"\nThe special number of the {name} is {n}.\n" for name, numbers in facts.items() for n in numbers]
    rng.shuffle(needles)
    name, numbers = next(iter(facts.items()))
    several = values > 1
    question = f"\nWhat {'are all special numbers' if several else 'is the special number'} of the {name}?"
    told = ", ".join(map(str, numbers))
    answer = f"The special number{'s' if several else ''} of the {name} {'are' if several else 'is'} {told}."
    places = [rng.random() for _ in needles]
    text = _ids(request, source())
    start = rng.random()

    def row(room: int) -> Row:
        first = int(start * max(1, len(text) - room))
        body = text[first : first + room]
        pieces, at = [], 0
        for place, needle in sorted(zip(places, needles, strict=True)):
            cut = int(len(body) * (0.02 + 0.96 * place))
            pieces += [_text(request, body[at:cut]), needle]
            at = cut
        context = "".join(pieces) + _text(request, body[at:])
        return Row(context, question, "", answer, len(_ids(request, answer)), task)

    return _longest(row, request, task)


def _key_value(request: Request, rng: random.Random) -> Row:
    pairs: dict[str, int] = {}
    while len(pairs) < (request.length or 0):
        key = f"{rng.choice(NAMES)}-{rng.choice(NAMES)}-{rng.randrange(100)}"
        pairs[key] = rng.randrange(1000, 10000)
    lines = [f"{key}: {value}\n" for key, value in pairs.items()]
    asked = rng.random()

    def row(count: int) -> Row:
        key = list(pairs)[int(asked * count)]
        answer = f"{key}: {pairs[key]}"
        question = f"\nWhat is the value of {key}?"
        return Row("".join(lines[:count]), question, "", answer, len(_ids(request, answer)), "key_value")

    return _longest(row, request, "key_value")


def _continued(task: str, source: Callable[[], str], request: Request, rng: random.Random) -> Row:
    text = _ids(request, source())
    end = rng.randrange((request.length or 0) + CONTINUED, len(text) - CONTINUED)
    answer = _text(request, text[end : end + CONTINUED])

    def row(room: int) -> Row:
        return Row(_text(request, text[end - room : end]), "", "", answer, CONTINUED, task, chat=False)

    return _longest(row, request, task)


def _longest(row: Callable[[int], Row], request: Request, task: str) -> Row:
    """Return the row with the longest context that fits, found by bisection."""
    if request.length is None:
        raise ValueError("the fidelity benchmark supports any length: specify one, for example --length 1024")
    low, high = 8, request.length
    if total(request, row(low)) > request.length:
        raise ValueError(f"length {request.length} is too short for task {task!r} of fidelity: use 256 or more")
    while low < high:
        middle = (low + high + 1) // 2
        if total(request, row(middle)) <= request.length:
            low = middle
        else:
            high = middle - 1
    return row(low)


@cache
def _tokens(tokenizer: object, text: str) -> tuple[int, ...]:
    return tuple(token_ids(tokenizer, text))  # type: ignore[arg-type]


def _ids(request: Request, text: str) -> tuple[int, ...]:
    return _tokens(request.tokenizer, text)


def _text(request: Request, ids: tuple[int, ...]) -> str:
    return str(request.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def _of_domain(prefix: str, source: Callable[[], str]) -> dict[str, Callable[[Request, random.Random], Row]]:
    """Return the tasks on one kind of text."""
    planted = {"needle": (1, 1), "multi_key": (4, 1), "multi_value": (1, 3)}
    tasks: dict[str, Callable[[Request, random.Random], Row]] = {
        prefix + name: partial(_planted, prefix + name, source, *counts) for name, counts in planted.items()
    }
    return tasks | {f"{prefix}prose": partial(_continued, f"{prefix}prose", source)}


_MANUAL = _of_domain("", manual)
_PROSE = _MANUAL.pop("prose")
TASKS_BY_NAME: dict[str, Callable[[Request, random.Random], Row]] = {
    **_MANUAL,
    "key_value": _key_value,
    "prose": _PROSE,
    "code": partial(_continued, "code", library),
    **_of_domain("essays_", essays),
    **_of_domain("scripture_", scripture),
}
TASKS = tuple(name for name in TASKS_BY_NAME if not name.startswith(("essays_", "scripture_")))
