"""A tokenizer for the standard sets, with lengths counted in words."""

from __future__ import annotations

import pytest

from evaluation.benchmarks.needle_in_haystack import NEEDLE
from tests.evaluation.benchmarks.sets import WORDS, make_tokenizer


@pytest.fixture(scope="session")
def word_tokenizer():
    """Return a tokenizer of whole words, including those of the templates."""
    text = f"{NEEDLE} This is a very long story book: <book> </book>. Look here now Answer:"
    return make_tokenizer([*WORDS, *text.split()])
