"""One prefill serves several presses that do not affect each other."""

from __future__ import annotations

import torch

from evaluation.presses import parse_press


def test_a_press_writes_into_no_other_press_s_keys(source):
    shared = source.prefilled
    before = shared.compress(None)
    shared.compress(parse_press("think").make(0.5))
    after = shared.compress(None)
    for (keys, _), (keys_after, _) in zip(before.layers, after.layers, strict=True):
        assert torch.equal(keys, keys_after)
    assert before.tokens_kept == 300 and before.lengths == (300, 300) and not before.is_masked
    assert before.next_position == 300
