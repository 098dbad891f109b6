"""A scorer that keeps entries in position order, rejects NaN scores, and cleans up after a failure."""

from __future__ import annotations

import torch
from kvpress import ScorerPress
from kvpress.utils import compute_n_kept

from pikvpress import models
from pikvpress.kernels.compact import gather_rows, select
from pikvpress.layerwise import LayerwisePress
from pikvpress.support.finite import check_scores


class OrderedScorerPress(LayerwisePress, ScorerPress):
    """A scorer that keeps entries in position order, rejects NaN scores, and cleans up after a failure.

    kvpress keeps entries in the order of their scores, which presses that run afterwards do not expect. Inside wrappers
    that only request scores, nothing is checked.
    """

    def compress(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor,
        kwargs: dict,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the kept keys and values, shape (batch, kv_heads, kept, head_dim), in position order.

        Raises
        ------
        ValueError
            For NaN or infinite keys or values, or NaN scores.
        """
        if self.compression_ratio == 0:
            return keys, values
        scores = self.score(module, hidden_states, keys, values, attentions, kwargs)
        tensors = {"hidden states": hidden_states, "keys": keys, "values": values}
        check_scores(module.layer_idx, {type(self).__name__: scores}, tensors)
        positions = select(scores, compute_n_kept(keys.shape[2], self.compression_ratio))
        return gather_rows(keys, positions), gather_rows(values, positions)
