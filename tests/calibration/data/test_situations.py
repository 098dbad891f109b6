from __future__ import annotations

import itertools
import re

import pytest

from pikvpress.calibration.data.situations import KINDS, make_situations
from pikvpress.calibration.recipe import Recipe
from tests.evaluation.tiny_tokenizer import make_tokenizer

RECIPE = Recipe(length=300)


class Characters:
    """A tokenizer whose tokens are characters, so that what it encodes can be read back."""

    bos_token = "^"
    chat_template = None

    def encode(self, text, **kwargs):
        return [ord(character) for character in text]

    def decode(self, ids, **kwargs):
        return "".join(map(chr, ids))


@pytest.fixture(scope="module")
def texts():
    return ["".join(f"Sentence {i} of text {n} tells of things. " for i in range(60)) for n in range(3)]


@pytest.fixture(scope="module")
def situations(texts):
    tokenizer = Characters()
    made = make_situations(tokenizer, texts, 40, Recipe(length=2000), 0)
    read = [(s.kind, tokenizer.decode(s.context), [tokenizer.decode(f) for f in s.futures]) for s in made]
    return made, read


def test_every_kind_is_made_in_turn_and_fits(situations):
    made, _ = situations
    assert [s.kind for s in made] == list(KINDS) * 8
    assert all(1900 < len(s.context) <= 2000 for s in made)


def test_answers_are_told_by_the_context(situations):
    for kind, context, futures in situations[1]:
        if kind == "continuation":
            continue
        asked = futures if kind == "table" else futures[:-1]
        assert asked
        for future in asked:
            _, answer = future.split("\n")[-2:]
            if kind in ("facts", "several"):
                told = answer.split(" are ")[-1] if kind == "several" else answer.split("'s ")[1]
                assert all(part in context for part in told.rstrip(".").split(", ")), (answer, context)
            elif kind == "table":
                key, value = answer.rstrip(".").split(" stands beside ")
                assert re.search(rf"{key}\W+{value}\W", context)
            elif kind == "quotation":
                assert answer.strip() in context and len(answer) > 8


def test_a_continuation_goes_on_where_the_context_ends(situations, texts):
    flat = [text.strip() for text in texts]
    for kind, context, (*_, future) in situations[1]:
        if kind != "table":
            assert len(future) == RECIPE.continued
            before = context[-40:] if kind in ("continuation", "quotation") else ""  # elsewhere a fact may be the last
            joined = (before + future).replace("\n", "")
            assert any(joined in first + second for first, second in itertools.permutations(flat, 2))


def test_the_seed_decides(texts):
    tokenizer = make_tokenizer()
    first, again, other = (make_situations(tokenizer, texts, 5, RECIPE, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_too_little_text_is_refused(texts):
    tokenizer = make_tokenizer()
    with pytest.raises(ValueError, match=r"the texts have \d+ tokens, but contexts of 5000 .* at least 5064"):
        make_situations(tokenizer, texts, 5, Recipe(length=5000), 0)
    with pytest.raises(ValueError, match="need at least 256 tokens, got 100"):
        make_situations(tokenizer, texts, 5, Recipe(length=100), 0)
    with pytest.raises(ValueError, match="at least 1 situation"):
        make_situations(tokenizer, texts, 0, RECIPE, 0)
