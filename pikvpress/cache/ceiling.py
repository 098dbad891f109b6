"""The ceiling of a scheduled cache: how many entries a layer may hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch

from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.cache.codec import Codec
from pikvpress.cache.codecs import EXACT
from pikvpress.cache.ragged import ALIGNED

KINDS = ("max_tokens", "max_bytes", "ratio")


@dataclass(frozen=True)
class Ceiling:
    """The most that a cache may hold; one of three kinds.

    Parameters
    ----------
    max_tokens : int, optional
        Entries of a KV head, on average.
    max_bytes : int, optional
        Bytes of the whole cache, including statistics; every layer gets an equal part.
    ratio : float, optional
        Share of the entries read so far to remove, in [0, 1). As long as the text is so short that this would be less
        than `smallest`, that many are held.

    Raises
    ------
    ValueError
        If none or several are given, or one is out of range.
    TypeError
        If one is not a number.
    """

    max_tokens: int | None = None
    max_bytes: int | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"a ceiling is one of {', '.join(KINDS)}, got {' and '.join(given) or 'none'}")
        value: Any = getattr(self, given[0])
        is_share = given[0] == "ratio"
        if isinstance(value, bool) or not isinstance(value, Real if is_share else Integral):
            raise TypeError(f"{given[0]} must be a {'' if is_share else 'whole '}number, got {value!r}")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise ValueError(f"ratio is the share of entries to remove and must be in [0, 1), got {value}")

    @property
    def kind(self) -> str:
        """Which of the three it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    def __str__(self) -> str:
        """Return the ceiling in words."""
        if self.max_tokens is not None:
            return f"at most {self.max_tokens} entries a head"
        if self.max_bytes is not None:
            return f"at most {self.max_bytes:,} bytes"
        return f"{self.ratio:.0%} of the entries removed"

    def quota(self, window: int, left: int, fixed: int, cost: Cost | None) -> int:
        """Return how many stored entries a head may hold, on average.

        Until the next page leaves, the recent entries grow to `window` + 64, and their room is set aside.

        Parameters
        ----------
        window : int
            Number of recent entries that always stay.
        left : int
            Number of scheduled entries that have left the window, stored or dropped.
        fixed : int
            Mean number of entries that the head holds of a context that a press has compressed, which all stay.
        cost : Cost, optional
            What entries take, for `max_bytes`.

        Raises
        ------
        ValueError
            If the ceiling is below the smallest cache, which the message gives.
        """
        recent = window + PAGE
        if self.ratio is not None:
            return max(int((1 - self.ratio) * (left + recent)), recent + PAGE) - recent
        if self.max_tokens is not None:
            quota, smallest = self.max_tokens - recent - fixed, recent + fixed + PAGE
            of = f"window {window} + a page that fills up + one stored page of {PAGE}"
            of += f" + {fixed} of the compressed context" if fixed else ""
            wanted = f"max_tokens={self.max_tokens} entries a head"
        else:
            assert self.max_bytes is not None and cost is not None
            quota, smallest = cost.affordable(self.max_bytes, recent), cost.smallest(recent)
            of, wanted = f"window {window} and two pages of {PAGE} in each head", f"max_bytes={self.max_bytes}"
        if quota < PAGE:
            raise ValueError(f"{wanted} is below the smallest cache, {smallest} ({of}): raise it, or reduce window")
        return quota


@dataclass(frozen=True)
class Cost:
    """Bytes that the scheduled entries of a layer take, statistics included.

    Parameters
    ----------
    layers : int
        Layers of the model, which all get an equal part.
    parts : int
        KV heads of all rows of the batch.
    head_dim : int
        Channels of an entry.
    dtype : torch.dtype
        Of the model.
    codecs : sequence of pairs of Codec
        Codecs of the keys and the values of stored entries, of each KV head.
    records : pair of float
        Bytes of what is recorded about a recent and about a stored entry: its position and statistics.
    fixed : int
        Bytes of what does not depend on the number of entries.
    """

    layers: int
    parts: int
    head_dim: int
    dtype: torch.dtype
    codecs: Sequence[tuple[Codec, Codec]]
    records: tuple[float, float]
    fixed: int = 0

    def stored(self, quota: int) -> int:
        """Return the most bytes that a layer takes for so many stored entries a head, on average."""
        exact = 2 * self.head_dim * self.dtype.itemsize
        heads = 0
        for pair in self.codecs:
            if all(codec == EXACT for codec in pair):
                heads += quota * exact + 2 * ALIGNED
                continue
            rows = -(-quota // PAGE) * PAGE
            packed = (
                codec.following.nbytes(rows, self.head_dim, self.dtype, side == 0) for side, codec in enumerate(pair)
            )
            heads += sum(packed) + PAGE * exact + 4 * ALIGNED  # what does not fill a page stays exact
        return heads * self.parts // len(self.codecs) + math.ceil(quota * self.parts * self.records[1])

    def total(self, quota: int, recent: int) -> int:
        """Return the most bytes that a layer takes with so many stored entries a head, and recent ones."""
        of_recent = self.parts * recent * (2 * self.head_dim * self.dtype.itemsize + self.records[0])
        return self.fixed + math.ceil(of_recent) + self.stored(quota)

    def affordable(self, max_bytes: int, recent: int) -> int:
        """Return the largest mean number of stored entries a head; -1 if there is none."""
        share = max_bytes // self.layers
        if self.total(0, recent) > share:
            return -1
        low, high = 0, 1
        while self.total(high, recent) <= share:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.total(middle, recent) <= share else (low, middle)
        return low

    def smallest(self, recent: int) -> int:
        """Return the bytes of the smallest cache: one stored page a head."""
        return self.layers * self.total(PAGE, recent)
