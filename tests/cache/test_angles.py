"""Angles are known for the latest entries, from any index on."""

from __future__ import annotations

import torch

from pikvpress.cache.angles import Angles


def some(first, last):
    numbers = torch.arange(first, last, dtype=torch.float32)[None, :, None]
    return numbers, -numbers


def test_they_grow_and_are_forgotten():
    angles = Angles()
    assert angles.nbytes == 0
    angles.add(5, *some(5, 10))
    angles.add(10, *some(10, 12))
    angles.forget(7)
    assert (angles.first, angles.last, angles.nbytes) == (7, 12, 2 * 5 * 4)
    cos, sin = angles.between(8, 11, torch.device("cpu"))
    assert cos.flatten().tolist() == [8, 9, 10] and torch.equal(sin, -cos)
    angles.forget(100)
    assert angles.last == angles.first == 12


def test_they_begin_anew_after_a_gap():
    angles = Angles()
    angles.add(0, *some(0, 5))
    angles.add(20, *some(20, 22))
    assert (angles.first, angles.last) == (20, 22)


def test_crop():
    angles = Angles()
    angles.add(0, *some(0, 9))
    copy = angles.copied()
    angles.crop(4)
    assert (angles.last, copy.last) == (4, 9)
    angles.add(4, *some(4, 5))
    assert angles.between(3, 5, torch.device("cpu"))[0].flatten().tolist() == [3, 4]
