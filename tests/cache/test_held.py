"""The stand-ins for keys and values."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import Held, PiKVLayer


@pytest.fixture
def held():
    layer = PiKVLayer()
    layer.lazy_initialization(*(torch.zeros(2, 3, 5, 4, dtype=torch.float16) for _ in range(2)))
    return Held.of(layer, 7)


def test_it_has_a_shape_and_no_numbers(held):
    assert held.shape == (2, 3, 7, 4) and held.dtype == torch.float16 and repr(held).startswith("Held(shape=(2, 3, 7")
    for compute in (torch.sum, torch.clone, lambda states: states + 1, lambda states: states[0]):
        with pytest.raises(ValueError, match="needs one tensor: a press that compresses again"):
            compute(held)


@pytest.mark.parametrize(("cut", "length"), [(slice(None, 4), 4), (slice(None, -2), 5), (slice(None, 99), 7)])
def test_it_can_be_cut_at_its_end(held, cut, length):
    shorter = held[:, :, cut]
    assert isinstance(shorter, Held) and shorter.shape == (2, 3, length, 4) and shorter.layer is held.layer


def test_it_cannot_be_cut_elsewhere(held):
    for cut in (lambda: held[:, :, 1:], lambda: held[:, :, ::2], lambda: held[:1], lambda: held[..., :2]):
        with pytest.raises(ValueError, match="needs one tensor"):
            cut()
