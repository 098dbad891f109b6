"""A tokenizer that needs no file: every word and every punctuation mark is a token."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

CHAT = (
    "{{ bos_token }}{% for message in messages %}[user] {{ message['content'] }} [end]{% endfor %}"
    "{% if add_generation_prompt %} [assistant]\n{% if not enable_thinking %}[no thoughts] {% endif %}{% endif %}"
)


def make_tokenizer(chat: bool = True, vocabulary: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """Return the tokenizer, optionally with a chat template that shows everything kvpress passes to it.

    All words that are not in the vocabulary share one token.
    """
    known = ["[unk]", "[bos]", "[eos]", *dict.fromkeys(vocabulary)]
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(known)}, unk_token="[unk]"))
    words.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[unk]", bos_token="[bos]", eos_token="[eos]")
    if chat:
        tokenizer.chat_template = CHAT
    return tokenizer
