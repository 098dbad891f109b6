"""Reporting the progress of a calibration."""

from __future__ import annotations

from pikvpress.calibration.steps import Steps


def test_steps_are_weighed_by_how_long_they_take():
    told = []
    steps = Steps(lambda *step: told.append(step))
    steps.collected(1, 2)
    steps.plan({"collecting": 2, "fitting": 3})
    for _ in range(4):  # one more than announced
        steps("fitting")
    assert told[0] == ("collecting", 1, 2)
    assert told[1:] == [("fitting", 60 + done, 63) for done in (1, 2, 3, 3)]


def test_steps_that_were_not_needed_count_as_done_in_the_end():
    told = []
    steps = Steps(lambda *step: told.append(step))
    steps.plan({"collecting": 2, "fitting": 3, "pruning": 5})
    steps("fitting")
    steps.finish("fitting")
    assert told[-1] == ("fitting", 93, 93)
    Steps(None).finish("fitting")
