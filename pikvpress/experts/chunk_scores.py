"""ChunkKV as a scorer: chunks of consecutive tokens are kept or removed together."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from kvpress import ScorerPress
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.experts.ordered import OrderedScorerPress
from pikvpress.experts.snapkv import StreamedSnapKVPress
from pikvpress.ranks import shard_of


@dataclass
class ChunkScorePress(OrderedScorerPress):
    """Score every key by the mean score of its chunk over all heads (ChunkKV, https://arxiv.org/abs/2502.00299).

    kvpress's `ChunkKVPress` selects chunks itself, so it can neither be blended nor reach every ratio exactly.
    Expressed as scores, with the key's own score as a tie-breaker, chunks can be blended with other experts.

    Parameters
    ----------
    compression_ratio : float, default=0.0
        Fraction of key-value pairs to remove.
    press : ScorerPress, optional
        Press whose scores are averaged. By default `SnapKVPress`.
    chunk_length : int, default=20
        Number of tokens per chunk; the last chunk may be shorter.

    Raises
    ------
    ValueError
        If the length is below 1.
    """

    compression_ratio: float = 0.0
    press: ScorerPress = field(default_factory=StreamedSnapKVPress)
    chunk_length: int = 20

    def __post_init__(self) -> None:
        if self.chunk_length < 1:
            raise ValueError(f"chunk_length must be at least 1 token, got {self.chunk_length}")
        super().__post_init__()

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Pass the model on."""
        self.press.post_init_from_model(model)

    def score(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor,
        kwargs: dict,
    ) -> torch.Tensor:
        """Return scores, shape (batch, kv_heads, keys)."""
        own = self.press.score(module, hidden_states, keys, values, attentions, kwargs).float()
        chunk = torch.arange(own.shape[2], device=own.device) // self.chunk_length
        together = shard_of(module).gathered(own, 1).sum(dim=1, keepdim=True)
        means = F.avg_pool1d(together, self.chunk_length, ceil_mode=True)[..., chunk]
        # The means of distinct chunks differ by more than a key's own score adds.
        gap = means.sort(dim=-1).values.diff(dim=-1)
        least = gap.masked_fill(gap <= 0, torch.inf).amin(dim=-1, keepdim=True).nan_to_num(posinf=1.0)
        low, high = own.amin(dim=-1, keepdim=True), own.amax(dim=-1, keepdim=True)
        return means + 0.5 * least * (own - low) / (high - low).clamp_min(1e-12)
