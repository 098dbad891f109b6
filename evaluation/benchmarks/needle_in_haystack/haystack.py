"""A haystack with exactly the number of tokens that fit, and a needle at a given depth."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from evaluation.rows import Row

WRAPPER = "This is a very long story book: <book> {context} </book>."
RESERVE = 150  # kvpress's value, for everything except haystack and needle
SEAM = 8  # tokens that may be added when joined parts are tokenised again


def tokens_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text, without special tokens and without a warning about its length."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[return-value]


def room_for_hay(tokenizer: PreTrainedTokenizerBase, source: Row, needle: str, length: int) -> int:
    """Return the number of haystack tokens: kvpress's number, or fewer if its reserve is too small.

    Raises
    ------
    ValueError
        If there is no room.
    """
    parts = (WRAPPER, source.question, source.answer_prefix, _template(tokenizer))
    others = sum(len(tokens_of(tokenizer, part)) for part in parts) + source.max_new_tokens + SEAM
    rest = len(tokens_of(tokenizer, needle)) + max(RESERVE, others)
    if length <= rest:
        raise ValueError(f"a length of {length} tokens is too short for a needle in a haystack: use more than {rest}")
    return length - rest


def hide(tokenizer: PreTrainedTokenizerBase, hay: list[int], needle: list[int], depth: int) -> str:
    """Return the wrapped haystack with the needle after ``depth`` percent of its tokens."""
    place = len(hay) * depth // 100
    text = tokenizer.decode(hay[:place] + needle + hay[place:], skip_special_tokens=True)
    return WRAPPER.format(context=text)


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the text that the chat template adds around a message."""
    if tokenizer.chat_template is None:
        return tokenizer.bos_token or ""
    message = [{"role": "user", "content": ""}]
    return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)  # type: ignore[return-value]
