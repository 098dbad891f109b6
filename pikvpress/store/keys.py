"""Keys of stored contexts: chains of digests, from which the key of every prefix of a text follows."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import torch

from pikvpress.model_digest import as_bytes

BLOCK = 64  # tokens of a link of the chain
GROUP_DIGITS = 16


@dataclass(frozen=True)
class ContextKey:
    """What a stored context is found by.

    Parameters
    ----------
    group : str
        The first digits of the digest of everything but the tokens: contexts of one group can be prefixes of others.
    length : int
        Number of tokens.
    digest : str
        SHA-256 of the settings and the tokens.
    """

    group: str
    length: int
    digest: str

    @property
    def name(self) -> str:
        """The key as text."""
        return f"{self.group}-{self.length}-{self.digest}"

    @staticmethod
    def of(name: str) -> ContextKey | None:
        """Return the key with this name, or None if it is the name of none."""
        found = re.fullmatch(rf"([0-9a-f]{{{GROUP_DIGITS}}})-([1-9]\d*)-([0-9a-f]{{64}})", name)
        return None if found is None else ContextKey(found[1], int(found[2]), found[3])


class ContextKeys:
    """The keys of a text and of all its prefixes.

    The digest of a prefix of n tokens is d_n = SHA-256(d_m, tokens m to n), where m is the last multiple of 64 before
    n, and d_0 the digest of the settings. Those at multiples of 64 form a chain, so that the keys of all prefixes
    together cost little more than one.

    Parameters
    ----------
    setting : str
        Digest of everything else that determines what is stored, see `pikvpress.store.setting`.
    input_ids : torch.Tensor
        Token ids, shape (batch, tokens).
    """

    def __init__(self, setting: str, input_ids: torch.Tensor):
        self._ids = input_ids.detach().to("cpu", torch.int64)
        self._group = setting[:GROUP_DIGITS]
        self._chain = [hashlib.sha256(f"{setting} {self._ids.shape[0]}".encode()).digest()]
        for first in range(0, self.length - BLOCK + 1, BLOCK):
            self._chain.append(self._next(self._chain[-1], first, first + BLOCK))

    @property
    def length(self) -> int:
        """Number of tokens of the text."""
        return self._ids.shape[1]

    def at(self, length: int) -> ContextKey:
        """Return the key of the first so many tokens, at least 1."""
        whole = length // BLOCK
        digest = self._chain[whole]
        if length % BLOCK:
            digest = self._next(digest, whole * BLOCK, length)
        return ContextKey(self._group, length, digest.hex())

    def _next(self, digest: bytes, first: int, last: int) -> bytes:
        return hashlib.sha256(digest + as_bytes(self._ids[:, first:last])).digest()
