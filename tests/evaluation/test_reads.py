"""Ways of reading continuations are recorded, and not mixed."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.reads import check_reads, reads_of
from evaluation.study import make_study

STUDY = {"presses": ["scheduled_h2o"], "ratios": [0.5], "output": "unused"}


def test_a_study_says_how_it_reads():
    both = [{"name": "continuation", "lengths": [800, 400]}, {"name": "continuation", "lengths": [500], "at_once": 4}]
    assert reads_of(make_study(STUDY | {"benchmarks": both})) == {
        "continuation": {
            "800": {"continued": 600, "at_once": 1},
            "400": {"continued": 300, "at_once": 1},
            "500": {"continued": 375, "at_once": 4},
        }
    }
    assert reads_of(make_study(STUDY | {"benchmarks": ["ruler"], "lengths": [400], "presses": ["knorm"]})) == {}


def test_only_other_lengths_may_be_read_in_other_ways():
    def described(**reads):
        return [{"name": "ruler"}, {"name": "continuation", "reads": {"400": {"continued": 300, "at_once": 1} | reads}}]

    check_reads(Path("there"), described(), described())
    check_reads(Path("there"), [], described())
    with pytest.raises(ValueError, match=r"there holds results with .*'at_once': 1} at length 400.* choose another"):
        check_reads(Path("there"), described(), described(at_once=8))
