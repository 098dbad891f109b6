"""A cache whose context lies on several ranks."""

from __future__ import annotations

from typing import Any, NoReturn

import torch.distributed as dist

from pikvpress.cache.layer import PiKVLayer
from pikvpress.cache.part import RankPart
from pikvpress.cache.pikv_cache import PiKVCache

ONLY_A_PART = "a sharded cache cannot be saved or stored, since every rank holds a part: use a PiKVCache"


class ShardedPiKVCache(PiKVCache):
    """A `PiKVCache` of one sequence, of which every rank holds a part and attends to it.

    All ranks run the same whole model on the same tokens. Of what a press and the codecs leave of the context, each
    rank stores its part: whole heads and stretches of 256 entries, placed by their bytes
    (`pikvpress.sharding.longest_first`). In every layer, ranks attend to their own entries and exchange the results,
    heads × (head_dim + 1) numbers for each token; the merged output is that of one cache. Entries after the context are
    dense and on every rank; for each layer, one rank attends to them.

    Parameters
    ----------
    group : ProcessGroup, optional
        The ranks. By default all.
    **settings
        `key_codec`, `value_codec` and `window`, see `PiKVCache`.

    Raises
    ------
    ValueError
        If torch.distributed is not initialised; from a forward, for a batch of several sequences; for a scheduler, and
        when it is saved.

    Examples
    --------
    >>> cache = ShardedPiKVCache()
    >>> with PiKVPress(0.875)(model):
    ...     model.generate(**inputs, past_key_values=cache)
    """

    def __init__(self, group: Any = None, **settings: Any):
        if not dist.is_initialized():
            raise ValueError(
                "a sharded cache lies on several processes: call torch.distributed.init_process_group first, or use a "
                "PiKVCache"
            )
        self._part = RankPart(group)
        super().__init__(**settings)

    def _new_layer(self, index: int) -> PiKVLayer:
        layer = super()._new_layer(index)
        layer.part = self._part
        return layer

    def schedule(self, *args: Any, **ceiling: Any) -> NoReturn:
        """Raise a ``ValueError``: schedulers would decide on each rank alone."""
        raise ValueError("a sharded cache has no scheduler: use a PiKVCache, or tensor parallelism")

    def save(self, *args: Any, **settings: Any) -> NoReturn:
        """Raise a ``ValueError``: a file would hold only this rank's part."""
        raise ValueError(ONLY_A_PART)

    @classmethod
    def load(cls, *args: Any, **settings: Any) -> NoReturn:
        """Raise a ``ValueError``: every rank would hold all entries of a file."""
        raise ValueError(
            "a sharded cache cannot be loaded, since a file does not say which part a rank holds: load a PiKVCache"
        )

    @property
    def state(self) -> NoReturn:
        """Raise a ``ValueError``: it is only this rank's part."""
        raise ValueError(ONLY_A_PART)
