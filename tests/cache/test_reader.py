"""Attention over compressed stretches and a dense tail."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from kvpress import AdaKVPress, KnormPress

from pikvpress import PiKVCache
from pikvpress.cache import reader
from pikvpress.kernels.ragged_attention import triton
from tests.cache.asking import read


@torch.no_grad()
@pytest.mark.parametrize("names", [("exact", "exact"), ("int3", "int4"), ("rank4", "int4")])
def test_kernels_read_what_the_definition_reads(names, llama, context, monkeypatch):
    """After masked entries, with a group that gets packed while decoding, in a copy."""

    def answers():
        cache = read(llama, context, PiKVCache(*names, window=1), AdaKVPress(KnormPress(0.5)))
        first = llama(input_ids=context[:, :65].flip(1), past_key_values=cache).logits
        assert names[1] == "exact" or cache.layers[0].entries.compressed.decoded is not None
        cache = deepcopy(cache)
        return torch.cat(
            [first, *(llama(input_ids=context[:, i : i + 1], past_key_values=cache).logits for i in (1, 2))], 1
        )

    expected = answers()
    monkeypatch.setattr(reader, "attend", triton.attend)
    torch.testing.assert_close(answers(), expected, atol=1e-4, rtol=1e-4)
