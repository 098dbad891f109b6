"""A tokenizer for the standard sets, whose lengths are counted in words."""

from __future__ import annotations

import pytest

from evaluation.benchmarks.needle_in_haystack import NEEDLE
from tests.evaluation.benchmarks.sets import WORDS, make_tokenizer


@pytest.fixture(scope="session")
def word_tokenizer():
    """Return a tokenizer of whole words, those of the templates among them."""
    text = f"{NEEDLE} This is a very long story book: <book> </book>. Look here now Answer:"
    return make_tokenizer([*WORDS, *text.split()])
