"""Dense keys and values."""

from __future__ import annotations

import pickle

import torch

from pikvpress.cache.tail import DenseTail


def tail(length=5, batch=2):
    keys = torch.arange(batch * 3 * length * 4.0).view(batch, 3, length, 4)
    return DenseTail(keys, -keys)


def test_before_anything_was_read_it_is_empty():
    assert DenseTail().length == DenseTail().nbytes == 0 and DenseTail().detached().keys is None


def test_operations_return_others():
    dense = tail()
    longer = dense.appended(dense.keys[:, :, :2], dense.values[:, :, :2])
    assert dense.length == 5 and longer.length == 7
    assert torch.equal(longer.between(5, 7).values, dense.values[:, :, :2])
    assert torch.equal(dense.rows(torch.tensor([1, 1, 0])).keys[0], dense.keys[1])
    assert torch.equal(dense.each(lambda part: part * 2).keys, 2 * dense.keys)


def test_bytes_are_those_that_are_kept_alive():
    dense = tail()
    whole = dense.nbytes
    assert whole == 2 * dense.keys.nbytes
    assert dense.between(0, 1).nbytes == whole and dense.between(0, 1).copied().nbytes == whole // 5
    assert DenseTail(dense.keys, dense.keys).nbytes == whole // 2


def test_one_with_gradients_can_be_written_once_detached():
    dense = DenseTail(tail().keys.requires_grad_() * 2, tail().values)
    again = pickle.loads(pickle.dumps(dense.detached()))
    assert torch.equal(again.keys, dense.keys) and not again.keys.requires_grad
