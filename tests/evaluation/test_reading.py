"""Contexts read together are read as if alone."""

from __future__ import annotations

import torch
from transformers import DynamicCache

from evaluation.reading import RoomyLayer


def test_a_roomy_layer_is_a_dynamic_one_that_copies_nothing():
    torch.manual_seed(0)
    roomy, plain = RoomyLayer(9), DynamicCache()
    for tokens in (4, 1, 3):
        keys, values = torch.randn(2, 2, 3, tokens, 8)
        found, expected = roomy.update(keys, values), plain.update(keys, values, 0)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    where = roomy.keys.data_ptr()
    roomy.update(*torch.randn(2, 2, 3, 1, 8))
    assert roomy.keys.data_ptr() == where and roomy.get_seq_length() == 9


def test_rows_can_be_left_behind():
    layer = RoomyLayer(5)
    keys, values = torch.randn(2, 3, 1, 4, 8)
    layer.update(keys, values)
    layer.keep_rows(torch.tensor([2, 0]))
    assert torch.equal(layer.keys, keys[[2, 0]]) and torch.equal(layer.values, values[[2, 0]])
    found, _ = layer.update(*torch.ones(2, 2, 1, 1, 8))
    assert found.shape == (2, 1, 5, 8) and (found[:, :, 4] == 1).all()
