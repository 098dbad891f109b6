"""A scorer that keeps entries in position order, rejects NaN scores, and cleans up after a failure."""

from __future__ import annotations

import torch
from kvpress import ScorerPress
from kvpress.utils import compute_n_kept

from pikvpress import models
from pikvpress.experts.layer_input import LayerInput
from pikvpress.experts.rows import joined, rows_of
from pikvpress.kernels.compact import gather_rows, select
from pikvpress.layerwise import LayerwisePress, acts_alone
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

        Of a padded batch, all are returned: what is removed from each row, and padding, is masked. Layers with a
        sliding window are left unchanged.

        Raises
        ------
        ValueError
            For NaN or infinite keys or values, or NaN scores; if a row has no tokens, or padding between them.
        """
        if self.compression_ratio == 0 or models.is_sliding(module):
            return keys, values
        seen = models.in_halves(module, keys), values, attentions, models.rotation_of(module, kwargs)
        layer = LayerInput(module, hidden_states, *seen)
        rows = rows_of(layer) if acts_alone(self, module) else None
        if rows is None:
            positions = self._selected(layer)
            return gather_rows(keys, positions), gather_rows(values, positions)
        kept = []
        for row in rows:
            stay = torch.zeros(row.layer.keys.shape[:3], dtype=torch.bool, device=keys.device)
            kept.append(stay.scatter_(-1, self._selected(row.layer), True))
        module.masked_key_indices = (~joined(rows, kept, keys.shape[:3])).nonzero(as_tuple=True)
        return keys, values

    def _selected(self, layer: LayerInput) -> torch.Tensor:
        """Return the positions to keep, ascending, shape (batch, kv_heads, kept)."""
        of_layer = layer.hidden_states, layer.keys, layer.values, layer.attentions, layer.kwargs
        module = layer.module if layer.ahead is None else layer.view  # which knows where the text of a row goes on
        scores = self.score(module, *of_layer)  # type: ignore[arg-type]
        check_scores(layer.index, {type(self).__name__: scores}, layer.tensors)
        return select(scores, compute_n_kept(layer.num_keys, self.compression_ratio))
