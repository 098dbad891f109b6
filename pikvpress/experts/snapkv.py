"""kvpress's SnapKV, without storing repeated keys or an attention matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kvpress import SnapKVPress

from pikvpress import models
from pikvpress.kernels.window_scores import received_attention


@dataclass
class StreamedSnapKVPress(SnapKVPress):
    """Score keys as kvpress's `SnapKVPress` does (https://arxiv.org/abs/2404.14469).

    The settings are the same and, in float32, so are the scores. Scores are float32 for every model dtype, and the
    computation does not synchronise with the host.
    """

    def score(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor | None,
        kwargs: dict,
    ) -> torch.Tensor:
        """Return the smoothed attention of the last queries, with the window itself on top, (batch, kv_heads, keys).

        Raises
        ------
        ValueError
            If there is no token before the window, or the kernel size is even.
        """
        if attentions is not None:
            return super().score(module, hidden_states, keys, values, attentions, kwargs)
        window = self.window_size
        if hidden_states.shape[1] <= window:
            raise ValueError(
                f"window_size={window} leaves nothing to score of {hidden_states.shape[1]} tokens: lower it, or use "
                "more tokens"
            )
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {self.kernel_size}: set it to an odd number, so that scores stay aligned")
        queries = models.queries_before_rotation(module, hidden_states[:, -window:])
        cos, sin = kwargs["position_embeddings"]
        queries = models.rotate(queries, cos[:, -window:], sin[:, -window:])
        scores = received_attention(queries, keys, keys.shape[-1] ** -0.5)[..., :-window] / window
        scores = F.avg_pool1d(scores, self.kernel_size, stride=1, padding=self.kernel_size // 2)
        above = (scores.amax() + 1).expand(*scores.shape[:2], window)  # the window is always kept
        return torch.cat([scores, above], dim=-1)
