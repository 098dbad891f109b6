"""kvpress's leverage scores without solving a system for every key."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from kvpress import LeverageScorePress
from kvpress.utils import get_prerope_key_states

from pikvpress import models
from pikvpress.ranks import HeadShard, shard_of

JITTER = 1e-2


@dataclass
class StreamedLeverageScorePress(LeverageScorePress):
    """Score keys as kvpress's `LeverageScorePress` does (https://arxiv.org/abs/2507.08143).

    The settings are the same and, in float32, so are the scores up to rounding, given the same random numbers.
    """

    @staticmethod
    def compute_leverage_scores(
        key_states: torch.Tensor, sketch_dimension: int, shard: HeadShard | None = None
    ) -> torch.Tensor:
        """Return the statistical leverage of sketched keys, shape (batch, kv_heads, keys).

        With X the centred keys times a Gaussian sketch and XᵀX = LLᵀ, it is ‖L⁻¹x‖² for each row x. L is as small as
        the sketch and is inverted once.

        Parameters
        ----------
        key_states : torch.Tensor
            Keys before rotation, shape (batch, kv_heads, keys, head_dim).
        sketch_dimension : int
            Number of columns of the sketch.
        shard : HeadShard, optional
            The heads that these are of the model, if there are others: every head has its own random numbers.
        """
        batch, heads, _, head_dim = key_states.shape
        shape = (batch, heads if shard is None else shard.total, head_dim, sketch_dimension)
        sketch = torch.randn(shape, device=key_states.device, dtype=key_states.dtype) * (
            1 / math.sqrt(sketch_dimension)
        )
        sketch = sketch if shard is None else shard.cut(sketch, 1)
        sketched = ((key_states - key_states.mean(dim=-2, keepdim=True)) @ sketch).float()
        gram = sketched.transpose(-2, -1) @ sketched
        root = LeverageScorePress.chol_with_jitter(0.5 * (gram + gram.transpose(-2, -1)), jitter=JITTER)
        identity = torch.eye(sketch_dimension, device=root.device, dtype=root.dtype).expand_as(root)
        inverse = torch.linalg.solve_triangular(root, identity, upper=False)
        return (sketched @ inverse.transpose(-2, -1)).square_().sum(dim=-1)

    def score(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor | None,
        kwargs: dict,
    ) -> torch.Tensor:
        """Return leverage scores, normalised over all heads of the model, shape (batch, kv_heads, keys)."""
        shard = shard_of(module)
        before_rotation = get_prerope_key_states(module, hidden_states)
        scores = self.compute_leverage_scores(before_rotation, self.sketch_dimension, shard)
        of_all = shard.gathered(scores, 1)
        return (scores - of_all.mean()) / of_all.std().clamp_min(1e-6)
