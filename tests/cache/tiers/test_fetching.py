"""A thread fetches entries, and says what went wrong."""

from __future__ import annotations

import threading

import pytest
import torch

from pikvpress.cache.tiers.away import Away
from pikvpress.cache.tiers.fetching import Fetcher
from tests.cache.tiers.cases import dense, entries, same

CPU = torch.device("cpu")


def test_entries_come_while_the_caller_goes_on():
    reading, go_on = threading.Event(), threading.Event()

    def read_ahead():
        reading.set()
        assert go_on.wait(10)

    fetcher, held = Fetcher(), entries()
    coming = fetcher.start(Away("file", held, dense(0), read_ahead), CPU)
    assert reading.wait(10) and not coming.done()
    go_on.set()
    assert same(fetcher.finish(coming), held)


def test_an_error_comes_when_the_entries_are_asked_for():
    def read_ahead():
        raise OSError("the drive is gone")

    fetcher = Fetcher()
    coming = fetcher.start(Away("file", entries(), dense(0), read_ahead), CPU)
    with pytest.raises(OSError, match="the drive is gone"):
        fetcher.finish(coming)
    fetcher.forget()
    assert same(fetcher.finish(fetcher.start(Away("file", entries(), dense(0)), CPU)), entries())
