"""Prompts are tokenised as kvpress's pipeline tokenises them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from kvpress import KVPressTextGenerationPipeline

from evaluation.prompts import encode, total_tokens
from evaluation.rows import Row
from tests.evaluation.tiny_tokenizer import make_tokenizer

ROW = Row("A long text. ", "What of it? ", "It is", "long", 7, "task")


@pytest.mark.parametrize("chat", [True, False])
def test_the_ids_are_those_of_the_pipeline(chat):
    tokenizer = make_tokenizer(chat)
    # Different words must have different ids.
    tokenizer.add_tokens(["long", "text", "What", "it", "It", "is", "user", "end", "assistant", "thoughts", "A"])
    theirs = KVPressTextGenerationPipeline.preprocess(
        SimpleNamespace(tokenizer=tokenizer), ROW.context, [ROW.question], ROW.answer_prefix, max_context_length=10**9
    )
    context, question = encode(tokenizer, ROW)
    assert context == theirs["context_ids"][0].tolist()
    assert question == theirs["questions_ids"][0][0].tolist()
    assert total_tokens(tokenizer, ROW) == len(context) + len(question) + 7


def test_a_row_without_chat_gets_the_beginning_of_sequence_alone():
    tokenizer = make_tokenizer()
    row = Row("one two three", " four", " five", "", 3, "task", chat=False)
    context, question = encode(tokenizer, row)
    assert (len(context), len(question), context[0]) == (4, 2, tokenizer.bos_token_id)
    assert total_tokens(tokenizer, row) == 9


def test_a_tokenizer_without_template_and_bos_adds_nothing():
    tokenizer = make_tokenizer(chat=False)
    tokenizer.bos_token = None
    assert [len(ids) for ids in encode(tokenizer, ROW)] == [4, 6]
