"""Measured spans of work add up."""

from __future__ import annotations

import copy
import pickle
import time
from typing import ClassVar

import pytest
import torch

from pikvpress.stopwatch import Stopwatch


class Event:
    """An event that knows where it was recorded."""

    made: ClassVar[list] = []

    def __init__(self, enable_timing):
        self.streams, self.is_over = [], False
        self.made.append(self)

    def record(self, stream):
        self.streams.append(stream)

    def synchronize(self):
        self.is_over = True

    def elapsed_time(self, other):
        assert other.is_over
        return 250.0


def test_spans_on_a_gpu_are_those_of_its_own_stream(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    watch = Stopwatch()
    for _ in range(2):
        with watch.span(torch.device("cuda:1")):
            pass
    assert watch.seconds == watch.seconds == 0.5
    assert [event.streams for event in Event.made] == [["stream of cuda:1"]] * 4


def test_spans_add_up_and_survive_errors_and_copies():
    watch = Stopwatch()
    assert watch.seconds == 0
    with watch.span(torch.device("cpu")):
        time.sleep(0.01)
    first = watch.seconds
    assert first >= 0.01
    with pytest.raises(KeyError), watch.span(torch.device("cpu")):
        time.sleep(0.01)
        raise KeyError
    assert watch.seconds >= first + 0.01
    with watch.span(torch.device("cpu"), torch.device("cpu", 0)):
        time.sleep(0.01)
    assert watch.seconds >= first + 0.02
    assert copy.deepcopy(watch).seconds == pickle.loads(pickle.dumps(watch)).seconds == watch.seconds
