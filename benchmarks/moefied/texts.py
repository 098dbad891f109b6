"""The shipped calibration texts as batches of tokens: some to make a mixture of experts, others to judge it."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase

from pikvpress.calibration import Recipe
from pikvpress.calibration.data.texts import shipped_texts, split
from pikvpress.prompts import token_ids


def batch(tokenizer: PreTrainedTokenizerBase, documents: int, length: int, held_out: bool) -> torch.Tensor:
    """Return the first tokens of documents, those that calibration fits to or holds out, shape (documents, length).

    Documents are spread evenly over the texts, whose names begin with their kinds.

    Raises
    ------
    ValueError
        If fewer documents are that long.
    """
    texts = split(shipped_texts(), Recipe.held_out_documents)[held_out]
    found = [ids[:length] for text in texts if len(ids := token_ids(tokenizer, text)) >= length]
    if not 1 <= documents <= len(found):
        raise ValueError(f"between 1 and {len(found)} texts of {length} tokens can be read, got {documents}")
    return torch.tensor([found[number * len(found) // documents] for number in range(documents)])
