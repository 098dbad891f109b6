"""What is reused for a context from one press to the next."""

from __future__ import annotations


def test_things_are_made_once(source):
    made = []
    for _ in range(2):
        assert source.once(("test", 1), lambda: made.append(1) or len(made)) == 1
    assert source.once(("test", 2), lambda: made.append(1) or len(made)) == 2


def test_only_the_latest_is_kept(source):
    made = []
    for key in "aabba":
        source.latest(key, lambda: made.append(1))
    assert len(made) == 3


def test_the_full_cache_is_that_of_the_prefill(source):
    assert source.full is source.full and source.full.tokens_kept == len(source.context)
