"""A haystack of exactly as many tokens as fit, with a needle at a depth."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from evaluation.rows import Row

WRAPPER = "This is a very long story book: <book> {context} </book>."
RESERVE = 150  # kvpress's, for all that is neither haystack nor needle
SEAM = 8  # tokens that may be added where parts are joined and read anew


def tokens_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text, without special ones and without a remark on its length."""
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[return-value]


def room_for_hay(tokenizer: PreTrainedTokenizerBase, source: Row, needle: str, length: int) -> int:
    """Return how many tokens of hay leave room for all else: kvpress's count, or fewer where its reserve is too small.

    Raises
    ------
    ValueError
        If there is no room.
    """
    parts = (WRAPPER, source.question, source.answer_prefix, _template(tokenizer))
    others = sum(len(tokens_of(tokenizer, part)) for part in parts) + source.max_new_tokens + SEAM
    rest = len(tokens_of(tokenizer, needle)) + max(RESERVE, others)
    if length <= rest:
        raise ValueError(f"a length of {length} tokens is too short for a needle in a haystack: give more than {rest}")
    return length - rest


def hide(tokenizer: PreTrainedTokenizerBase, hay: list[int], needle: list[int], depth: int) -> str:
    """Return the wrapped haystack with the needle behind ``depth`` percent of its tokens."""
    place = len(hay) * depth // 100
    text = tokenizer.decode(hay[:place] + needle + hay[place:], skip_special_tokens=True)
    return WRAPPER.format(context=text)


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the chat template puts around a message."""
    if tokenizer.chat_template is None:
        return tokenizer.bos_token or ""
    message = [{"role": "user", "content": ""}]
    return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)  # type: ignore[return-value]
