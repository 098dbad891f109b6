"""A decision carries the entries that it applies to."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from pikvpress.budgets import Decision, ScoredLayer


def scored(index=3, num_keys=10, batch=1):
    generator = torch.Generator().manual_seed(index)
    keys, values = (torch.randn(batch, 2, num_keys, 4, generator=generator) for _ in range(2))
    scores = torch.rand(batch, 2, num_keys, generator=generator)
    module = SimpleNamespace(layer_idx=index, config=SimpleNamespace(num_key_value_heads=2))
    return ScoredLayer(module, keys, values, scores, torch.ones(batch, 2, 1))


def test_rows_are_kept_in_position_order():
    layer = scored()
    decision = Decision(layer, 4)
    assert torch.equal(decision.positions(), layer.scores.topk(4, dim=-1).indices.sort(dim=-1).values)
    assert not decision.is_ragged and decision.head_tokens() == [4, 4] and layer.index == 3


def test_ragged_heads_name_what_is_removed():
    kept = torch.zeros(1, 2, 10, dtype=torch.bool)
    kept[0, 0, :3], kept[0, 1, 5:] = True, True
    decision = Decision(scored(), kept)
    rows, heads, positions = decision.removed()
    removed = {(head, position) for head, position in zip(heads.tolist(), positions.tolist(), strict=True)}
    assert removed == {(0, place) for place in range(3, 10)} | {(1, place) for place in range(5)} and not rows.any()
    assert decision.is_ragged and decision.head_tokens() == [3, 5]


def test_head_tokens_are_means_over_the_batch():
    kept = torch.zeros(2, 2, 10, dtype=torch.bool)
    kept[0, :, :2], kept[1, :, :6] = True, True
    assert Decision(scored(batch=2), kept).head_tokens() == [4, 4]


def test_the_mask_says_the_same_for_a_number_and_for_heads_of_different_lengths():
    layer = scored()
    mask = Decision(layer, 4).mask()
    places = torch.arange(10).expand(mask.shape)
    assert torch.equal(places[mask].view(1, 2, 4), Decision(layer, 4).positions())
    kept = layer.scores > 0.5
    assert Decision(layer, kept).mask() is kept
