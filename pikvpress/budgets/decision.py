"""What is decided for one layer, with the tensors that it was decided on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pikvpress import models
from pikvpress.kernels.compact import gather_rows, select


@dataclass(frozen=True, eq=False)
class ScoredLayer:
    """A layer's entries, and what they are worth.

    Parameters
    ----------
    module : torch.nn.Module
        The attention module.
    keys, values : torch.Tensor
        Shape (batch, kv_heads, keys, head_dim).
    scores : torch.Tensor
        Shape (batch, kv_heads, keys), higher = keep.
    weights : torch.Tensor
        Gate weights that the scores were blended by, shape (batch, kv_heads, experts).
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


@dataclass(frozen=True, eq=False)
class Decision:
    """What one layer keeps.

    A budget may decide on several layers at once, after the last; so each decision brings the entries it is about.

    Parameters
    ----------
    layer : ScoredLayer
        Decided on.
    kept : int or torch.Tensor
        The highest scores of every head, so many; or any, bool, of the shape of the scores.
    codecs : sequence of (str, str), optional
        Of keys and values, by KV head, where they are not kept as they are.
    """

    layer: ScoredLayer
    kept: int | torch.Tensor
    codecs: Sequence[tuple[str, str]] | None = None

    @property
    def is_ragged(self) -> bool:
        """Whether heads may keep different numbers of entries."""
        return not isinstance(self.kept, int)

    def gathered(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the kept keys and values in position order, where all heads keep as many."""
        assert isinstance(self.kept, int)
        positions = select(self.layer.scores, self.kept)
        return gather_rows(self.layer.keys, positions), gather_rows(self.layer.values, positions)

    def removed(self) -> tuple[torch.Tensor, ...]:
        """Return row, head and position of each removed entry, as kvpress's masks have them."""
        assert isinstance(self.kept, torch.Tensor)
        return tuple((~self.kept).nonzero(as_tuple=True))

    def head_tokens(self) -> list[int]:
        """Return how many entries each KV head keeps, the mean over the batch."""
        if isinstance(self.kept, int):
            return [self.kept] * self.layer.scores.shape[1]
        return [int(count) for count in self.kept.sum(dim=-1).float().mean(dim=0).round().int().tolist()]
