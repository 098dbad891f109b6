"""Tokens behind a codec from elsewhere: as many as fit in the bytes that it counts."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from kvpress import KeyDiffPress, KnormPress

from evaluation.coded import CodedPress


@dataclass
class HalvedPress(CodedPress):
    """Halve all numbers, and count more bits for later tokens and for the second head."""

    def code(self, states, is_keys):
        tokens = torch.arange(states.shape[2], device=states.device)
        bits = tokens + 100 * torch.arange(1, states.shape[1] + 1)[:, None]
        return states / 2, bits.expand(states.shape[:3])


def test_a_layer_keeps_the_best_tokens_that_its_bytes_hold(tiny, random_context, source):
    full = source.full
    for ratio in (0.9, 0.97):
        press = HalvedPress(KnormPress(), ratio)
        found = source.prefilled.compress(press)
        bits = torch.zeros(len(full.layers))
        for layer, ((keys, values), (all_keys, all_values)) in enumerate(zip(found.layers, full.layers, strict=True)):
            kept = keys.shape[2]
            best = all_keys.norm(dim=-1).argsort(dim=-1)  # the smallest norms
            sums = [
                sum(2 * (100 * (head + 1) * n + best[0, head, :n].sum().item()) for head in range(2))
                for n in (kept, kept + 1)
            ]
            budget = 8 * (1 - ratio) * (all_keys.nbytes + all_values.nbytes)
            assert sums[0] <= budget < sums[1]
            places = best[:, :, :kept].sort(dim=-1).values.unsqueeze(-1).expand_as(keys)
            torch.testing.assert_close(keys, all_keys.gather(2, places) / 2)
            torch.testing.assert_close(values, all_values.gather(2, places) / 2)
            bits[layer] = sums[0]
        assert found.bytes_held == press.nbytes == (bits / 8).ceil().sum().item()
        assert found.bytes_held <= (1 - ratio) * full.bytes_held and not found.is_masked


def test_nothing_is_removed_and_nothing_scored_if_everything_fits(source, random_context, monkeypatch):
    monkeypatch.setattr(KeyDiffPress, "score", None)
    found = source.prefilled.compress(HalvedPress(KeyDiffPress(), 0.5))
    assert found.tokens_kept == len(random_context)
    n = len(random_context)
    assert found.bytes_held == len(found.layers) * 2 * (2 * n * (n - 1) // 2 + 300 * n) // 8


def test_bytes_are_those_of_the_latest_context(source):
    press = HalvedPress(KnormPress(), 0.9)
    held = [source.prefilled.compress(press).bytes_held for _ in range(2)]
    assert held[0] == held[1] == press.nbytes


def test_a_ratio_of_everything_is_refused(source):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        source.prefilled.compress(HalvedPress(KnormPress(), 1.0))
