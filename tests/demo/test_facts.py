"""The document of the demo."""

from __future__ import annotations

import pytest

from pikvpress.demo import demo_document
from pikvpress.demo.facts import FACTS


def test_every_fact_stands_once_at_its_depth():
    document, questions = demo_document()
    assert [question.answer for question in questions] == [fact.question.answer for fact in FACTS]
    for fact in FACTS:
        assert document.count(fact.sentence) == 1
        assert document.index(fact.sentence) / len(document) == pytest.approx(fact.depth, abs=0.06)
        others = [other.question.text for other in FACTS if other is not fact]
        assert not any(fact.question.answer in other for other in others)


def test_the_document_is_as_long_as_promised(smollm):
    assert 3500 < len(smollm[1](demo_document()[0]).input_ids) < 4500
