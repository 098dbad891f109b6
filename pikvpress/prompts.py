"""A context and what follows it, framed and tokenised as kvpress's pipeline does it."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase


def framed(tokenizer: PreTrainedTokenizerBase, context: str, chat: bool = True) -> tuple[str, str]:
    """Return a context with what stands before it, and what stands between a question and its answer.

    The same texts as `KVPressTextGenerationPipeline.preprocess` makes: the head of the chat template belongs to the
    context, what follows the user's turn stands after the question. A tokenizer without a template gets its
    beginning-of-sequence token and a line break in their place; without `chat` it gets the former alone.
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
    """Return the tokens of a text and no others, without a warning that it is long."""
    return list(tokenizer.encode(text, add_special_tokens=False, verbose=False))
