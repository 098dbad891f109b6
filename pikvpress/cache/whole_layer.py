"""What the ranks must know of each other about a scheduled layer, so that all of them reckon alike."""

from __future__ import annotations

from dataclasses import dataclass

from pikvpress.cache.codec import Codec
from pikvpress.cache.codecs import EXACT
from pikvpress.ranks import HeadShard


@dataclass(frozen=True)
class WholeLayer:
    """What a layer holds besides scheduled entries, and how it stores these, in all heads of the model.

    Parameters
    ----------
    fixed : int
        Mean number of entries of a head that a press has compressed, on the rank where it is largest.
    nbytes : int
        Bytes of these entries, on all ranks.
    codecs : tuple of pairs of Codec
        Codecs of keys and of values, by KV head of the model.
    """

    fixed: int
    nbytes: int
    codecs: tuple[tuple[Codec, Codec], ...]

    @property
    def packs(self) -> bool:
        """Whether any codec is not exact."""
        return any(codec != EXACT for pair in self.codecs for codec in pair)

    def joined(self, shard: HeadShard | None, alike: bool) -> WholeLayer:
        """Return the whole layer, given that of one rank's heads.

        Parameters
        ----------
        shard : HeadShard, optional
            The heads of the rank; None if they are not known to be split.
        alike : bool
            Whether all ranks are known to have the same. Otherwise they tell each other, and all must call this.
        """
        if shard is None or shard.is_whole:
            return self
        parts = [self] * shard.ranks if alike else shard.collected(self)
        codecs = tuple(pair for part in parts for pair in part.codecs)
        return WholeLayer(max(part.fixed for part in parts), sum(part.nbytes for part in parts), codecs)
