"""Attention from queries of the context, moved to positions after its end."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pikvpress.experts.layer_view import LayerView
from pikvpress.experts.ordered import OrderedScorerPress
from pikvpress.experts.probes import probe_queries
from pikvpress.kernels.probe_scores import probe_scores


@dataclass
class ProbeAttentionPress(OrderedScorerPress):
    """Score keys by the attention of probe queries: queries of the context, moved to positions after it.

    ExpectedAttention (https://arxiv.org/abs/2510.00636) models future queries by a Gaussian fitted to the queries of
    the context. Here a sample of the queries is used directly, so that keys needed by only a few queries still count:
    the score is the geometric mean of the mean and the maximum attention that a key receives.

    Parameters
    ----------
    compression_ratio : float, default=0.0
        Fraction of key-value pairs to remove.
    num_probes : int, default=256
        Number of queries; a sixteenth of them are the latest, the others are evenly spaced over the context.
    """

    compression_ratio: float = 0.0
    num_probes: int = 256

    def score(
        self,
        module: torch.nn.Module,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor,
        kwargs: dict,
    ) -> torch.Tensor:
        """Return the probes' attention, shape (batch, kv_heads, keys)."""
        view = module if isinstance(module, LayerView) else LayerView(module, hidden_states)
        recent = self.num_probes // 16
        probes = probe_queries(view, hidden_states, keys, kwargs, self.num_probes - recent, recent)
        return probe_scores(probes, keys, view.scaling)
