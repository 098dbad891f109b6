"""Tokenisation of a row as in kvpress's pipeline."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from evaluation.rows import Row
from pikvpress.prompts import framed, token_ids


def encode(tokenizer: PreTrainedTokenizerBase, row: Row) -> tuple[list[int], list[int]]:
    """Return the token ids of the context, and of the question with the answer prefix.

    These are the same ids as from `KVPressTextGenerationPipeline.preprocess`; see `pikvpress.prompts.framed`.
    """
    context, tail = framed(tokenizer, row.context, row.chat)
    return token_ids(tokenizer, context), token_ids(tokenizer, row.question + tail + row.answer_prefix)


def total_tokens(tokenizer: PreTrainedTokenizerBase, row: Row) -> int:
    """Return how many tokens a row takes: chat template, context, question, answer prefix and room for the answer."""
    return sum(len(ids) for ids in encode(tokenizer, row)) + row.max_new_tokens
