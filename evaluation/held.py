"""Presses that keep a cache within a ceiling while a text is read: schedulers, and kvpress's presses for decoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

from kvpress import BasePress, DecodingPress, PrefillDecodingPress, ScorerPress
from transformers import Cache, DynamicCache, PreTrainedModel

from evaluation.prefilling import at_hand
from pikvpress import PiKVCache
from pikvpress.cache import codec
from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.cache.scheduler import known


@dataclass(frozen=True)
class Room:
    """What may be held, and how it is filled.

    Parameters
    ----------
    tokens : int
        Entries of a KV head in a cache of one length.
    nbytes : int
        Bytes of these entries in all heads of all layers.
    prompt : int
        Tokens that are read first, at once.
    at_once : int
        Tokens that are read at once after them.
    """

    tokens: int
    nbytes: int
    prompt: int
    at_once: int


@dataclass
class HeldPress(BasePress, ABC):
    """A way to stay within a ceiling; among presses by name, though only some of these are presses.

    Parameters
    ----------
    compression_ratio : float
        Share of the bytes of the whole text that must not be held at any step.
    """

    compression_ratio: float = 0.0

    @property
    def counts_bytes(self) -> bool:
        """Whether the ceiling is one of bytes held, rather than of entries read."""
        return True

    @property
    @abstractmethod
    def smallest(self) -> int:
        """The fewest tokens that the whole budget must be worth, with what is recorded about them."""

    @abstractmethod
    def begin(self, model: PreTrainedModel, room: Room) -> tuple[Cache, AbstractContextManager[Any]]:
        """Return an empty cache, and what is around all of the reading."""


@dataclass
class ScheduledPress(HeldPress):
    """A `PiKVCache` with a scheduler and a ceiling of bytes, or of entries read if the scheduler drops nothing.

    Parameters
    ----------
    scheduler : str
        Its name.
    codec : str, default="exact"
        How entries behind the window are stored.
    window : int, default=32
        Number of recent entries that stay exact.
    """

    scheduler: str = "saliency"
    codec: str = "exact"
    window: int = 32

    def __post_init__(self) -> None:
        codec(self.codec)
        known(self.scheduler)

    @property
    def counts_bytes(self) -> bool:
        """Whether the scheduler keeps a ceiling of bytes."""
        return "max_bytes" in known(self.scheduler).ceilings

    @property
    def smallest(self) -> int:
        """The window and two pages, three if one of them is packed, and a tenth for records."""
        return (self.window + PAGE * (2 if self.codec == "exact" else 3)) * 11 // 10

    def begin(self, model: PreTrainedModel, room: Room) -> tuple[Cache, AbstractContextManager[Any]]:
        """Return the cache; nothing is around the reading."""
        limit: dict[str, Any] = {"max_bytes": room.nbytes} if self.counts_bytes else {"max_tokens": room.tokens}
        cache = PiKVCache(self.codec, self.codec, window=self.window, scheduler=self.scheduler, **limit)
        return cache, nullcontext()


@dataclass
class HeldDecodingPress(HeldPress):
    """kvpress's PrefillDecodingPress with one scorer, so that a DynamicCache never holds more than the ceiling.

    The prompt is compressed to the size that DecodingPress leaves after every 64 tokens, which is as much below the
    ceiling as is added until the next time. Hidden states that DecodingPress holds are not counted. Scorers that look
    at a window of queries, such as SnapKV, fail in kvpress unless tokens are read one by one, and then rotate all of
    these queries as the latest one.

    Parameters
    ----------
    base_press : ScorerPress
        The scorer.
    """

    base_press: ScorerPress | None = None

    @property
    def smallest(self) -> int:
        """A page, and as many tokens as are added between two compressions."""
        return 2 * PAGE

    def begin(self, model: PreTrainedModel, room: Room) -> tuple[Cache, AbstractContextManager[Any]]:
        """Return a DynamicCache, and the press on the model."""
        assert self.base_press is not None
        target = room.tokens - PAGE + room.at_once
        self.base_press.compression_ratio = max(0.0, 1 - (target + 0.5) / room.prompt)  # rounded down to the target
        decoding = DecodingPress(self.base_press, PAGE // room.at_once, target)
        around = ExitStack()
        around.enter_context(at_hand(model))
        around.enter_context(PrefillDecodingPress(self.base_press, decoding)(model))
        return DynamicCache(), around
