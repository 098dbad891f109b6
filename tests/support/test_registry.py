"""Looking things up by name."""

from __future__ import annotations

import pytest

from pikvpress.support.registry import Registry, check_name


def test_what_is_not_known_is_said_with_what_is():
    fruits = Registry("fruit", {"apple": 1, "pear": 2})
    assert fruits["pear"] == 2 and list(fruits) == ["apple", "pear"] and "plum" not in fruits
    with pytest.raises(ValueError, match=r"unknown fruit 'aple': did you mean apple or pear\? known are apple, pear$"):
        fruits["aple"]
    with pytest.raises(ValueError, match=r"unknown fruit 7: known are apple, pear$"):
        fruits[7]
    assert fruits.get("plum") is None and list(fruits) == ["apple", "pear"], "a look-up changes nothing"


def test_a_name_is_taken_once():
    fruits = Registry("fruit")
    fruits.register("plum", 3)
    with pytest.raises(ValueError, match="fruit 'plum' is already registered; choose another name"):
        fruits.register("plum", 4)
    assert fruits == {"plum": 3}


def test_names_are_checked_against_any_list():
    check_name("a", iter("ab"), "letter")
    with pytest.raises(ValueError, match="unknown letter 'c': known are a, b"):
        check_name("c", iter("ab"), "letter")
