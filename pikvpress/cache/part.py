"""What one rank holds of a layer whose context lies on several ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from pikvpress.cache.codec import Codec
from pikvpress.cache.low_rank import LowRankCodec
from pikvpress.cache.ragged import stored_bytes
from pikvpress.cache.rotated import RotatedCodec
from pikvpress.sharding import divided, longest_first, merged

STEP = 256  # heads are divided at multiples of this many kept entries: groups and blocks of all codecs end there
EXTRA = 4  # pieces for each rank, beside one for each head

Codecs = tuple[Sequence[Codec], Sequence[Codec]]


@dataclass(frozen=True, eq=False)
class RankPart:
    """The part of one rank. All ranks compute the same placement, from what they keep of the same context.

    Parameters
    ----------
    group : ProcessGroup or None
        The ranks; None for the default group.
    """

    group: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> RankPart:
        """Return self: copied caches lie on the same ranks."""
        return self

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return dist.get_world_size(self.group)

    @property
    def rank(self) -> int:
        """This rank."""
        return dist.get_rank(self.group)

    def holds_recent(self, layer: int) -> bool:
        """Return whether this rank attends to a layer's entries after the context: layers take turns."""
        return layer % self.ranks == self.rank

    def own(self, kept: torch.Tensor, codecs: Codecs, head_dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, Codecs]:
        """Return which of the kept entries this rank holds, and the codecs in which it stores them.

        Parameters
        ----------
        kept : torch.Tensor
            bool, shape (1, kv_heads, entries).
        codecs : pair of sequences of Codec
            Of keys and values, by KV head.
        head_dim : int
            Channels of an entry.
        dtype : torch.dtype
            Of keys and values.

        Raises
        ------
        ValueError
            If there are several rows.
        """
        if len(kept) != 1:
            raise ValueError(f"a sharded cache holds one sequence, not a batch of {len(kept)}: read them one by one")
        counts, pairs = kept[0].sum(dim=-1).tolist(), [*zip(*codecs, strict=True)]
        sizes = [
            sum(stored_bytes(codec, count, head_dim, dtype, side == 0) for side, codec in enumerate(pair))
            for count, pair in zip(counts, pairs, strict=True)
        ]
        places = kept.cumsum(dim=-1) - 1
        mine, begins = torch.zeros_like(kept), [False] * len(counts)
        pieces = longest_first(divided(sizes, len(sizes) + EXTRA * self.ranks), self.ranks).ranks[self.rank]
        for piece in pieces:
            whole = any(isinstance(codec, LowRankCodec) for codec in pairs[piece.head])  # directions are of all entries
            first, last = (_edge(counts[piece.head], part, piece.parts, whole) for part in (piece.part, piece.part + 1))
            mine[0, piece.head] |= (places[0, piece.head] >= first) & (places[0, piece.head] < last)
            begins[piece.head] |= first == 0 < last
        stored = tuple([_within(codec, begin) for codec, begin in zip(side, begins, strict=True)] for side in codecs)
        return kept & mine, (stored[0], stored[1])

    def merged(self, output: torch.Tensor, log_sums: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
        """Return the attention over the entries of all ranks: each sends heads × (head_dim + 1) numbers for each query.

        Parameters
        ----------
        output : torch.Tensor
            Of this rank's entries, shape (batch, heads, tokens, head_dim).
        log_sums : torch.Tensor
            Log-sum-exp of the logits, shape (batch, heads, tokens).
        empty : torch.Tensor
            Which KV heads have no entries on this rank, bool, shape (batch, kv_heads).
        """
        nothing = empty.repeat_interleave(output.shape[1] // empty.shape[1], dim=1).unsqueeze(-1)
        log_sums = log_sums.masked_fill(nothing, -torch.inf)
        message = torch.cat([output.to(log_sums.dtype), log_sums.unsqueeze(-1)], dim=-1)
        of_ranks = [torch.empty_like(message) for _ in range(self.ranks)]
        dist.all_gather(of_ranks, message, group=self.group)
        found = torch.stack(of_ranks)
        return merged(found[..., :-1], found[..., -1]).to(output.dtype)


def _edge(count: int, part: int, parts: int, whole: bool) -> int:
    """Return how many of a head's kept entries come before a part."""
    if part == parts:
        return count
    return 0 if whole else count * part // parts // STEP * STEP


def _within(codec: Codec, begins: bool) -> Codec:
    """Return the codec for entries that begin a context, or for others, whose first one is not stored apart."""
    return codec if begins or not isinstance(codec, RotatedCodec) else replace(codec, lead=0)
