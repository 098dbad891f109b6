"""A row as the tokens that the model reads, tokenised as kvpress's pipeline does it."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from evaluation.rows import Row


def encode(tokenizer: PreTrainedTokenizerBase, row: Row) -> tuple[list[int], list[int]]:
    """Return the token ids of the context, and of the question with the answer prefix.

    The same ids as `KVPressTextGenerationPipeline.preprocess` gives: the head of the chat template belongs to the
    context, what follows the user's turn stands between question and answer prefix. A tokenizer without a template gets
    its beginning-of-sequence token and a line break in their place; a row without `chat` gets the former alone.
    """
    context = row.context
    if not row.chat or tokenizer.chat_template is None:
        context, suffix = (tokenizer.bos_token or "") + context, "\n" if row.chat else ""
    else:
        mark = "#" * (len(context) + 10)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": context + mark}],
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=False,
        )
        context, suffix = str(prompt).split(mark)
    return token_ids(tokenizer, context), token_ids(tokenizer, row.question + suffix + row.answer_prefix)


def total_tokens(tokenizer: PreTrainedTokenizerBase, row: Row) -> int:
    """Return how many tokens a row takes: chat template, context, question, answer prefix and room for the answer."""
    return sum(len(ids) for ids in encode(tokenizer, row)) + row.max_new_tokens


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text and no others, without a warning that it is long."""
    return list(tokenizer.encode(text, add_special_tokens=False, verbose=False))
