"""The history of a scheduled cache adds up, and can be drawn."""

from __future__ import annotations

import json

import pytest

from pikvpress.cache.history import History, Step


def history():
    steps = [Step(0, 100, "h2o", (80, 90), (4, 2)), Step(1, 100, "h2o", (80, 80), (0, 0))]
    return History([*steps, Step(0, 164, "lru", (70, 95), (10, 3))])


def test_dropped_entries_are_added_up_by_layer():
    assert history().dropped() == {0: 19, 1: 0}
    assert "layer  0: 19 dropped, the last of 164 tokens, by lru; 70 to 95 a head held" in str(history())
    assert json.loads(json.dumps(history().to_dict()))["steps"][2]["held"] == [70, 95]


def test_a_copy_goes_its_own_way():
    first = history()
    first.copied().steps.clear()
    assert len(first.steps) == 3


def test_it_can_be_drawn(tmp_path):
    figure = history().plot(tmp_path / "held.png")
    assert (tmp_path / "held.png").stat().st_size > 0
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in panels] == ["layer 0", "layer 1"]
    assert [len(axes.lines) for axes in panels] == [2, 2] and list(panels[0].lines[1].get_ydata()) == [90, 95]
    with pytest.raises(ValueError, match="nothing has left the recent window yet"):
        History().plot()
