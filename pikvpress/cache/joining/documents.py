"""The token ids of documents that are joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Documents:
    """Token ids of documents, each with the same tokens at its beginning.

    Parameters
    ----------
    ids : tuple of torch.Tensor
        Of each document, with its head, shape (1, tokens).
    head : int
        Number of tokens with which every document begins.
    seam : int
        Number of tokens after the head that are read anew in every document but the first.

    Raises
    ------
    TypeError, ValueError
        If they are not token ids of one sequence each, do not begin alike, or have no tokens of their own.
    """

    ids: tuple[torch.Tensor, ...]
    head: int
    seam: int

    def __post_init__(self) -> None:
        for name, value in (("head", self.head), ("seam", self.seam)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be a number of tokens, got {value!r}")
            if value < 0:
                raise ValueError(f"{name} is a number of tokens and must be at least 0, got {value}")
        if not self.ids:
            raise ValueError("there is nothing to join: pass at least one document")
        for number, ids in enumerate(self.ids):
            if not isinstance(ids, torch.Tensor) or ids.is_floating_point() or ids.dtype == torch.bool:
                raise TypeError(f"input_ids of document {number} must be a tensor of token ids")
            if ids.dim() != 2 or ids.shape[0] != 1:
                raise ValueError(
                    f"input_ids of document {number} must be one sequence of shape (1, tokens), got {(*ids.shape,)}"
                )
            if ids.shape[1] <= self.head:
                raise ValueError(
                    f"document {number} has {ids.shape[1]} tokens, and head={self.head} of them are common to all "
                    "documents: every document needs tokens of its own"
                )
            if not torch.equal(ids[:, : self.head].cpu(), self.ids[0][:, : self.head].cpu()):
                raise ValueError(
                    f"document {number} does not begin with the same {self.head} tokens as the first: head is the "
                    "number of tokens with which every document was read, such as those of a system prompt"
                )

    def own(self, number: int) -> int:
        """Return how many tokens a document has after the head."""
        return int(self.ids[number].shape[1]) - self.head

    def again(self, number: int) -> int:
        """Return how many tokens of a document are read anew."""
        return min(self.seam, self.own(number)) if number > 0 else 0

    def start(self, number: int) -> int:
        """Return the position of the first token that a document has after the head."""
        return self.head + sum(self.own(before) for before in range(number))


def joined_ids(input_ids: Sequence[torch.Tensor], *, head: int = 0) -> torch.Tensor:
    """Return the token ids that a joined cache holds, shape (1, tokens): those of all documents, the head only once.

    Parameters
    ----------
    input_ids : sequence of torch.Tensor
        Token ids of each document, shape (1, tokens).
    head : int, default=0
        As in `PiKVCache.join`.

    Raises
    ------
    TypeError, ValueError
        As `PiKVCache.join` does for documents.
    """
    ids = Documents(tuple(input_ids), head, 0).ids
    return torch.cat([ids[0], *(one[:, head:] for one in ids[1:])], dim=1)
