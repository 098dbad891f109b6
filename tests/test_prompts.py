"""Contexts are framed as kvpress's pipeline frames them."""

from __future__ import annotations

from kvpress import KVPressTextGenerationPipeline

from pikvpress.prompts import framed, token_ids


def test_framed_contexts_are_the_pipeline_s(smollm):
    model, tokenizer = smollm
    pipeline = KVPressTextGenerationPipeline(model=model, tokenizer=tokenizer)
    theirs = pipeline.preprocess("Some text.", ["Why?"], "", 1000)
    before, after = framed(tokenizer, "Some text.")
    assert token_ids(tokenizer, before) == theirs["context_ids"][0].tolist()
    assert token_ids(tokenizer, "Why?" + after) == theirs["questions_ids"][0][0].tolist()


def test_without_a_template_there_is_a_line_break_or_nothing(smollm):
    tokenizer = smollm[1]
    begin = tokenizer.bos_token
    assert framed(tokenizer, "text", chat=False) == (begin + "text", "")
