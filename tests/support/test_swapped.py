"""Swapped attributes are restored, on any kind of object."""

from __future__ import annotations

import types

import pytest

from pikvpress.support.swapped import swapped


class Counter:
    start = 1

    @classmethod
    def made(cls):
        return cls.start

    def count(self):
        return 2


def test_modules_classes_and_objects_get_their_own_back():
    module, counter = types.ModuleType("module"), Counter()
    module.number = 1
    before = Counter.made
    with swapped(module, number=2, new=3), swapped(Counter, made=lambda: 4), swapped(counter, count=lambda: 5):
        assert (module.number, module.new, Counter.made(), counter.count()) == (2, 3, 4, 5)
    assert module.number == 1 and not hasattr(module, "new")
    assert Counter.made == before and Counter.made() == 1
    assert counter.count() == 2 and "count" not in vars(counter)


def test_also_after_an_error():
    counter = Counter()
    with pytest.raises(RuntimeError), swapped(counter, start=2):
        assert counter.start == 2
        raise RuntimeError
    assert vars(counter) == {}
