"""Prompts and tokenisation as in kvpress's pipeline."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase


def framed(tokenizer: PreTrainedTokenizerBase, context: str, chat: bool = True) -> tuple[str, str]:
    """Return a context with its prefix, and the text between a question and its answer.

    These are the same texts as in `KVPressTextGenerationPipeline.preprocess`: the start of the chat template belongs to
    the context, and the text after the user's turn follows the question. For a tokenizer without a template, a
    beginning-of-sequence token and a line break take their place; without `chat`, only the former.
    """
    if not chat or tokenizer.chat_template is None:
        return str(tokenizer.bos_token or "") + context, "\n" if chat else ""
    mark = "#" * (len(context) + 10)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": context + mark}],
        add_generation_prompt=True,
        tokenize=False,
        enable_thinking=False,
    )
    before, after = str(prompt).split(mark)
    return before, after


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text, without special tokens and without a warning about its length."""
    return list(tokenizer.encode(text, add_special_tokens=False, verbose=False))
