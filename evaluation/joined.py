"""Documents that are read and compressed alone, and then joined."""

from __future__ import annotations

from dataclasses import dataclass

from kvpress import BasePress

from pikvpress.cache.joining import SEAM


@dataclass
class JoinedPress(BasePress):
    """How documents are joined; among presses by name, though it is none.

    Parameters
    ----------
    press : BasePress, optional
        The press with which each document is compressed; None for full caches.
    seam : int, optional
        As in `PiKVCache.join`.
    """

    press: BasePress | None = None
    seam: int = SEAM

    def __post_init__(self) -> None:
        if not isinstance(self.press, BasePress | None):
            raise ValueError(f"press is not a setting, got {self.press!r}: use joined_pikv for compressed documents")
        if isinstance(self.seam, bool) or not isinstance(self.seam, int) or self.seam < 0:
            raise ValueError(f"seam must be a number of tokens, at least 0, got {self.seam!r}")

    @property
    def compression_ratio(self) -> float:
        """The ratio of the press, if it has one."""
        return float(getattr(self.press, "compression_ratio", 0.0))

    @compression_ratio.setter
    def compression_ratio(self, ratio: float) -> None:
        self.press.compression_ratio = ratio  # type: ignore[union-attr]
