"""The decision for one layer, with the tensors that it applies to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pikvpress import models
from pikvpress.kernels.compact import select
from pikvpress.ranks import HeadShard, shard_of


@dataclass(frozen=True, eq=False)
class ScoredLayer:
    """A layer's entries and their scores.

    Parameters
    ----------
    module : torch.nn.Module
        The attention module.
    keys, values : torch.Tensor
        Shape (batch, kv_heads, keys, head_dim).
    scores : torch.Tensor
        Shape (batch, kv_heads, keys), higher = keep.
    weights : torch.Tensor
        Gate weights with which the scores were blended, shape (batch, kv_heads of the model, experts).
    """

    module: models.Attention
    keys: torch.Tensor
    values: torch.Tensor
    scores: torch.Tensor
    weights: torch.Tensor

    @property
    def index(self) -> int:
        """Index of the layer in the model."""
        return int(self.module.layer_idx)

    @property
    def shard(self) -> HeadShard:
        """The heads of the model that these are."""
        return shard_of(self.module)


@dataclass(frozen=True, eq=False)
class Decision:
    """What one layer keeps.

    A budget may decide on several layers at once, after the last one, so each decision refers to its own entries.

    Parameters
    ----------
    layer : ScoredLayer
        The layer that the decision is for.
    kept : int or torch.Tensor
        Number of entries with the highest scores that every head keeps, or a bool mask with the shape of the scores.
    codecs : sequence of (str, str), optional
        Codecs of keys and values for each KV head that this rank holds, or for each of them in each row of a padded
        batch; None if they are stored unchanged.
    """

    layer: ScoredLayer
    kept: int | torch.Tensor
    codecs: Sequence[tuple[str, str]] | None = None

    @property
    def is_ragged(self) -> bool:
        """Whether heads may keep different numbers of entries."""
        return not isinstance(self.kept, int)

    def mask(self) -> torch.Tensor:
        """Return which entries are kept, bool, with the shape of the scores."""
        if not isinstance(self.kept, int):
            return self.kept
        mask = torch.zeros_like(self.layer.scores, dtype=torch.bool)
        return mask.scatter_(-1, select(self.layer.scores, self.kept), True)

    def positions(self) -> torch.Tensor:
        """Return the positions of kept entries, ascending, (batch, kv_heads, kept), if heads keep the same number."""
        assert isinstance(self.kept, int)
        return select(self.layer.scores, self.kept)

    def removed(self) -> tuple[torch.Tensor, ...]:
        """Return row, head and position of each removed entry, in the format of kvpress's masks."""
        assert isinstance(self.kept, torch.Tensor)
        return tuple((~self.kept).nonzero(as_tuple=True))

    def head_codecs(self) -> list[tuple[str, str]] | None:
        """Return the codecs of keys and values for each KV head; different ones of several rows are joined."""
        if self.codecs is None:
            return None
        heads = self.layer.scores.shape[1]
        by_head = [self.codecs[head::heads] for head in range(heads)]
        sides = [["/".join(dict.fromkeys(pair[side] for pair in pairs)) for pairs in by_head] for side in (0, 1)]
        return list(zip(*sides, strict=True))

    def head_tokens(self) -> list[int]:
        """Return how many entries each KV head that this rank holds keeps, averaged over the batch."""
        if isinstance(self.kept, int):
            return [self.kept] * self.layer.scores.shape[1]
        return [int(count) for count in self.kept.sum(dim=-1).float().mean(dim=0).round().int().tolist()]
