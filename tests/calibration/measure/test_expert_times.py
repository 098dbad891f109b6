"""The time that experts take, as a share of a prefill."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from kvpress import ScorerPress

from pikvpress.calibration.measure.expert_times import expert_times
from pikvpress.experts import make_experts


@dataclass
class Sleeper(ScorerPress):
    compression_ratio: float = 0.0

    def score(self, module, hidden_states, keys, values, attentions, kwargs):
        time.sleep(0.1)
        return torch.zeros(keys.shape[:3])


def test_each_expert_has_a_share_and_the_model_is_left_as_it_was(llama):
    experts = make_experts(["keydiff", Sleeper()], None)
    quick, slow = expert_times(llama, list(range(1, 200)), experts)
    assert 0 < quick < slow
    assert not any(layer.self_attn._forward_hooks for layer in llama.model.layers)
    assert not hasattr(llama.model.layers[0].self_attn, "rotary_emb")
