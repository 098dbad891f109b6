"""The history of a scheduled cache adds up, and can be drawn."""

from __future__ import annotations

import json

import pytest

from pikvpress.cache.history import STEPS, History, Step


def history():
    steps = [Step(0, 100, "h2o", (80, 90), (4, 2)), Step(1, 100, "h2o", (80, 80), (0, 0))]
    return History([*steps, Step(0, 164, "lru", (70, 95), (10, 3))])


def test_dropped_entries_are_added_up_by_layer():
    assert history().dropped() == {0: 19, 1: 0}
    assert "layer  0: 19 dropped, the last of 164 tokens, by lru; 70 to 95 a head held" in str(history())
    assert json.loads(json.dumps(history().to_dict()))["steps"][1]["held"] == [70, 95]


def test_a_copy_goes_its_own_way():
    first = history()
    copy = first.copied()
    copy.add(Step(1, 164, "lru", (80, 80), (1, 1)))
    assert len(first.steps) == 3 and len(copy.steps) == 4


@pytest.mark.parametrize("count", [127, 128, 129, 1000, 4096])
def test_it_stays_small_and_its_sums_stay_true(count):
    found, held = History(), {}
    for number in range(count):
        for layer in (0, 1):
            step = Step(layer, 64 * number, "h2o" if number < count // 2 else "lru", (number, 3), (layer, number))
            found.add(step)
            held[layer, step.length] = step.held
    assert len(found.steps) <= 2 * STEPS and (count > STEPS or len(found.steps) == 2 * count)
    assert found.dropped() == {layer: sum(range(count)) + layer * count for layer in (0, 1)}
    assert all(step.held == held[step.layer, step.length] for step in found.steps)
    times = [step.times for step in found.steps if step.layer == 1]
    assert sum(times) == count and len(set(times[:-1])) == 1  # as dense in the past as now
    assert found.steps[-1].length == 64 * (count - 1) and found.steps[-1].scheduler == "lru"
    assert {step.scheduler for step in found.steps} <= {"h2o", "lru", "h2o, lru"}
    assert [*History(found.steps).steps] == found.steps


def test_steps_of_different_batches_are_not_summed_up():
    found = History(Step(0, 64 * number, "h2o", (7, 8), (1, 2)) for number in range(200))
    for number in range(200, 400):
        found.add(Step(0, 64 * number, "h2o", (7, 8, 9, 9), (1, 2, 3, 3)))
    assert len(found.steps) <= STEPS and found.dropped() == {0: 200 * 3 + 200 * 9}
    (panel,) = (axes for axes in found.plot().axes if axes.axison)
    assert len(panel.lines) == 6


def test_it_can_be_drawn(tmp_path):
    figure = history().plot(tmp_path / "held.png")
    assert (tmp_path / "held.png").stat().st_size > 0
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in panels] == ["layer 0", "layer 1"]
    assert [len(axes.lines) for axes in panels] == [2, 2] and list(panels[0].lines[1].get_ydata()) == [90, 95]
    with pytest.raises(ValueError, match="nothing has left the recent window yet"):
        History().plot()
