"""Contexts built from arbitrary texts, and futures that follow them, to fit gates on.

A router is fitted for what is not known yet, so each context has several futures: answers about planted facts, look-ups
in a table or quotations from far back, and except for a table, the text's own continuation.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from pikvpress.calibration.recipe import Recipe
from pikvpress.prompts import framed, token_ids

_OWNERS = tuple(
    "baker captain dentist doctor farmer gardener guard judge librarian mayor miller painter pilot postman printer "
    "sailor tailor teacher violinist weaver".split()
)
_THINGS = tuple(
    "archive boat cabinet cellar chest clock coach garage gate greenhouse harbour kitchen ledger locker office safe "
    "shed studio tower workshop".split()
)
_COLOURS = tuple("amber black blue brown crimson green grey ivory orange pink purple silver white yellow".split())
_PLACES = tuple(
    f"{name} {kind}"
    for name in "Alder Birch Dover Fern Grove Juniper Linden Mill".split()
    for kind in ("Lane", "Street")
)


@dataclass(frozen=True)
class Situation:
    """A context and its possible futures.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    context : tuple of int
        Token ids that a press compresses.
    futures : tuple of tuple of int
        Token ids after the context; each future is read separately.
    """

    kind: str
    context: tuple[int, ...]
    futures: tuple[tuple[int, ...], ...]


def make_situations(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], count: int, recipe: Recipe, seed: int
) -> list[Situation]:
    """Build situations from texts, all kinds in turn.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    texts : sequence of str
        Documents. Short ones are joined until a context is full.
    count : int
        Number of situations.
    recipe : Recipe
        Defines the number of tokens of contexts, continuations and quotations.
    seed : int
        Random seed; the same seed, texts and recipe give the same situations.

    Raises
    ------
    ValueError
        If the texts have too few tokens for a context and its continuation, or a setting is out of range.
    """
    if count < 1:
        raise ValueError(f"at least 1 situation is needed, got {count}")
    length, continued = recipe.length, recipe.continued
    if length < recipe.fewest_tokens:
        raise ValueError(f"contexts need at least {recipe.fewest_tokens} tokens, got {length}")
    documents = [_sentences(tokenizer, text) for text in texts]
    tokens = sum(len(sentence) for document in documents for sentence in document)
    if tokens < length + continued:
        raise ValueError(
            f"the texts have {tokens} tokens, but contexts of {length} and their continuation need at least "
            f"{length + continued}: use more text, or shorter contexts"
        )
    kinds = list(KINDS)
    return [
        KINDS[kinds[index % len(kinds)]](_Maker(tokenizer, documents, recipe, f"{seed}/{index}"))
        for index in range(count)
    ]


class _Filled(NamedTuple):
    """A context made of text: its tokens, the sentences of the text that it contains, and the tokens after these."""

    context: tuple[int, ...]
    body: list[tuple[int, ...]]
    following: tuple[int, ...]


class _Maker:
    """The random choices of one situation, and the text that it is built from."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, documents: list[list[tuple[int, ...]]], recipe: Recipe, seed: str
    ):
        self.tokenizer, self.recipe, self.rng = tokenizer, recipe, random.Random(seed)
        self.length = recipe.length
        self._documents = documents
        head, self._tail = framed(tokenizer, "")
        self.head = tuple(token_ids(tokenizer, head))

    def passage(self, room: int) -> list[tuple[int, ...]]:
        """Return consecutive sentences with at least ``room`` tokens, if the texts have that many."""
        order = self.rng.sample(self._documents, len(self._documents))
        sentences = [sentence for document in order for sentence in document]
        before, first = self.rng.random() * max(0, sum(map(len, order[0])) - room), 0
        while before >= len(sentences[first]):
            before -= len(sentences[first])
            first += 1
        return sentences[first:] + sentences[:first]

    def fill(self, planted: Sequence[str] = ()) -> _Filled:
        """Return a context with planted sentences."""
        lines = [tuple(token_ids(self.tokenizer, f"\n{sentence}\n")) for sentence in planted]
        room = max(0, self.length - len(self.head) - sum(map(len, lines)))
        continued = self.recipe.continued
        passage = self.passage(room + continued)
        body = _at_most(passage, room)
        places = sorted(self.rng.randrange(1, max(2, len(body))) for _ in lines)
        pieces = list(body)
        for place, line in zip(reversed(places), reversed(lines), strict=True):
            pieces.insert(place, line)
        tokens = [token for sentence in passage for token in sentence]
        return _Filled((*self.head, *itertools.chain(*pieces)), body, tuple(tokens[room : room + continued]))

    def asked(self, question: str, answer: str | Sequence[int]) -> tuple[int, ...]:
        """Return a question and its answer as they follow the context."""
        told = token_ids(self.tokenizer, answer) if isinstance(answer, str) else answer
        return (*token_ids(self.tokenizer, f"\n{question}{self._tail}"), *told)


def _facts(maker: _Maker) -> Situation:
    """Facts scattered over a text, some of which are asked for."""
    count = maker.rng.choice((1, 2, 4, 8))
    facts = [_fact(maker.rng, owner, thing) for owner, thing in _distinct(maker.rng, count)]
    filled = maker.fill([sentence for sentence, _, _ in facts])
    asked = [maker.asked(question, answer) for _, question, answer in maker.rng.sample(facts, min(3, count))]
    return Situation("facts", filled.context, (*asked, filled.following))


def _several(maker: _Maker) -> Situation:
    """Several numbers of one thing, scattered over a text and asked for together."""
    ((owner, thing), (other, another)) = _distinct(maker.rng, 2)
    numbers = [maker.rng.randrange(10**4, 10**6) for _ in range(maker.rng.randrange(2, 5))]
    decoy = maker.rng.randrange(10**4, 10**6)
    sentences = [f"One of the codes for the {owner}'s {thing} is {number}." for number in numbers]
    planted = [*sentences, f"One of the codes for the {other}'s {another} is {decoy}."]
    filled = maker.fill(maker.rng.sample(planted, len(planted)))
    listed = ", ".join(map(str, numbers))
    answer = f"The codes for the {owner}'s {thing} are {listed}."
    asked = maker.asked(f"List all codes for the {owner}'s {thing}.", answer)
    return Situation("several", filled.context, (asked, filled.following))


def _table(maker: _Maker) -> Situation:
    """A table from which entries are looked up."""
    style = maker.rng.choice(("{key} = {value}\n", '"{key}": "{value}",\n', "{key},{value}\n"))
    entries: dict[str, str] = {}
    context = list(maker.head)
    while True:
        key = f"{maker.rng.choice(_OWNERS)}_{maker.rng.choice(_THINGS)}_{maker.rng.randrange(1000)}"
        value = str(maker.rng.randrange(10**3, 10**6))
        line = token_ids(maker.tokenizer, style.format(key=key, value=value))
        if len(context) + len(line) > maker.length:
            break
        if key not in entries:
            entries[key] = value
            context += line
    futures = [
        maker.asked(f"What stands beside {key}?", f"{key} stands beside {entries[key]}.")
        for key in maker.rng.sample(sorted(entries), 3)
    ]
    return Situation("table", tuple(context), tuple(futures))


def _quotation(maker: _Maker) -> Situation:
    """Passages to be quoted verbatim, given their beginning."""
    filled, futures = maker.fill(), []
    body = filled.body
    for _ in range(3):
        first = maker.rng.randrange(len(body))
        passage = [token for sentence in body[first : first + 8] for token in sentence][: maker.recipe.quoted + 8]
        opening = str(maker.tokenizer.decode(passage[:8], clean_up_tokenization_spaces=False)).strip()
        futures.append(maker.asked(f'Quote the passage that begins with "{opening}".', passage))
    return Situation("quotation", filled.context, (*futures, filled.following))


def _continuation(maker: _Maker) -> Situation:
    """The continuation of a text."""
    start = token_ids(maker.tokenizer, framed(maker.tokenizer, "", chat=False)[0])
    room, continued = maker.length - len(start), maker.recipe.continued
    tokens = [token for sentence in maker.passage(room + continued) for token in sentence]
    return Situation("continuation", (*start, *tokens[:room]), (tuple(tokens[room : room + continued]),))


KINDS: dict[str, Callable[[_Maker], Situation]] = {
    "facts": _facts,
    "table": _table,
    "quotation": _quotation,
    "several": _several,
    "continuation": _continuation,
}


def _fact(rng: random.Random, owner: str, thing: str) -> tuple[str, str, str]:
    """Return a made-up fact as a sentence, a question and its answer."""
    number, colour, place = rng.randrange(10**3, 10**6), rng.choice(_COLOURS), rng.choice(_PLACES)
    told = rng.choice(
        (
            (f"is opened with the code {number}", "Which code opens the {}?", f"with the code {number}"),
            (f"is painted {colour}", "In which colour is the {} painted?", f"is painted {colour}"),
            (f"stands in {place}", "Where does the {} stand?", f"stands in {place}"),
            (f"cost {number} crowns", "How much did the {} cost?", f"cost {number} crowns"),
        )
    )
    statement, question, answer = told
    owned = f"{owner}'s {thing}"
    said = f"The {owned} is opened {answer}." if answer.startswith("with") else f"The {owned} {answer}."
    return f"The {owned} {statement}.", question.format(owned), said


def _distinct(rng: random.Random, count: int) -> list[tuple[str, str]]:
    return list(zip(rng.sample(_OWNERS, count), rng.sample(_THINGS, count), strict=True))


def _sentences(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[int, ...]]:
    """Split a text after full stops and line breaks, without losing characters."""
    pieces = [piece for piece in re.split(r"(?<=[.!?])(?=\s)|(?<=\n)(?=\S)", text.strip() + "\n\n") if piece]
    return [ids for piece in pieces if (ids := tuple(token_ids(tokenizer, piece)))]


def _at_most(sentences: Sequence[tuple[int, ...]], room: int) -> list[tuple[int, ...]]:
    """Return sentences from the start until ``room`` tokens are filled; the last one is truncated."""
    taken: list[tuple[int, ...]] = []
    for sentence in sentences:
        if room <= 0:
            break
        taken.append(sentence[:room])
        room -= len(sentence)
    return taken
