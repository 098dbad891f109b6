"""Contexts of documents that are read alone."""

from __future__ import annotations

import pytest
import torch

from evaluation.answering import log_probabilities
from evaluation.compressors import SourceContext
from evaluation.compressors.joining import documents_of, tokens_read
from evaluation.presses import parse_press
from evaluation.prompts import encode
from evaluation.rows import Row
from evaluation.study import make_study
from evaluation.units import Sample
from pikvpress.cache import joined_ids

TEXTS = [
    "The first text tells of rivers and of boats.\n\n",
    "The second one tells of hills.\n\n",
    "And a third: stones.",
]


@pytest.fixture(scope="module")
def sample(tokenizer):
    starts = [0, len(TEXTS[0]), len(TEXTS[0] + TEXTS[1])]
    row = Row("".join(TEXTS), "\nWhat is a third?", "", "stones", 4, "manual", {"starts": starts})
    context, question = encode(tokenizer, row)
    return Sample("manual-0", row, tuple(context), tuple(question), (), len(context))


@pytest.fixture(scope="module")
def texts(tiny, tokenizer, sample):
    return SourceContext(tiny, tokenizer, sample.context, (0.5,))


def test_documents_begin_alike_and_make_up_the_context(tokenizer, sample):
    head, documents = documents_of(tokenizer, sample)
    assert joined_ids([torch.tensor([ids]) for ids in documents], head=head).tolist() == [list(sample.context)]
    for ids, text in zip(documents, TEXTS, strict=True):
        assert tokenizer.decode(ids[head:]).strip() == text.strip()


def test_seams_as_long_as_documents_give_the_predictions_of_the_whole(tiny, texts, sample):
    spec = parse_press("joined@seam=10000")
    joined = spec.strategy.compress(spec, None, texts, sample)
    full, same = log_probabilities(tiny, [texts.full, joined], sample.question)
    torch.testing.assert_close(full, same, atol=1e-4, rtol=1e-4)


def test_only_seams_count_as_read_and_documents_are_compressed_once(tiny, texts, sample):
    for name, ratio, wanted in (
        ("joined@seam=0", None, 0),
        ("joined@seam=3", None, 2 * 3),
        ("joined_pikv@experts=[keydiff]@gates=null@budgets=equal@seam=3", 0.5, 2 * 3),  # all tokens, in few bits
    ):
        spec = parse_press(name)
        spec.strategy.compress(spec, ratio, texts, sample)
        with tokens_read(tiny) as read:
            context = spec.strategy.compress(spec, ratio, texts, sample)
        assert context.tokens_read == sum(read) == wanted
        assert context.next_position == len(sample.context)


STUDY = {"lengths": [600], "presses": ["joined"], "ratios": [0.5], "output": "unused"}


def test_there_must_be_documents_and_no_question_before():
    make_study(STUDY | {"benchmarks": ["rag", "rag_fidelity"]})
    with pytest.raises(ValueError, match=r"joined joins documents .* the contexts of fidelity are not made of"):
        make_study(STUDY | {"benchmarks": ["rag", "fidelity"]})
    with pytest.raises(ValueError, match="before there is a question"):
        make_study(STUDY | {"benchmarks": ["rag"], "query_aware": True})
