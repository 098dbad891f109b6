"""Measured spans of work add up."""

from __future__ import annotations

import copy
import pickle
import time

import pytest
import torch

from pikvpress.stopwatch import Stopwatch


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
