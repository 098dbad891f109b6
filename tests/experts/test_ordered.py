"""Our scorers keep entries in position order and reject NaN."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from pikvpress.experts.ordered import OrderedScorerPress
from tests.experts.test_layer_view import call_of


class Backwards(OrderedScorerPress):
    """A scorer for which later entries are worth less, unless set otherwise."""

    scores = None

    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        backwards = torch.arange(keys.shape[2], 0, -1.0).expand(*keys.shape[:3])
        return backwards if self.scores is None else self.scores.expand(*keys.shape[:3])


def test_what_is_kept_stands_in_position_order(llama, ids):
    module, hidden, keys, values, *rest = call_of(llama, ids)
    kept = Backwards(0.75).compress(module, hidden, keys, values, *rest)
    assert torch.equal(kept[0], keys[:, :, :75]) and torch.equal(kept[1], values[:, :, :75])


def test_nan_is_refused_by_name_and_the_cache_is_empty_afterwards(llama, ids):
    press, cache = Backwards(0.75), DynamicCache()
    press.scores = torch.tensor([torch.nan])
    with pytest.raises(ValueError, match="the scores of Backwards in layer 0 are NaN"), press(llama), torch.no_grad():
        llama(ids, past_key_values=cache)
    assert cache.get_seq_length() == 0 and not any(layer.self_attn._forward_hooks for layer in llama.model.layers)
