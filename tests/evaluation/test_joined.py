"""How documents are joined, as a setting of a study."""

from __future__ import annotations

import pytest

from evaluation.joined import JoinedPress
from evaluation.presses import parse_press
from pikvpress import PiKVPress


def test_the_ratio_is_that_of_the_press_inside():
    press = JoinedPress(press=PiKVPress())
    press.compression_ratio = 0.75
    assert press.press.compression_ratio == press.compression_ratio == 0.75
    assert JoinedPress().compression_ratio == 0


def test_settings_reach_both():
    made = parse_press("joined_pikv@seam=3@refit=false").make(0.5)
    assert (made.seam, made.press.refit, made.press.compression_ratio) == (3, False, 0.5)
    assert parse_press("joined@seam=0").make(None) == JoinedPress(seam=0)


def test_the_press_is_part_of_the_name():
    with pytest.raises(ValueError, match="press is not a setting, got 'knorm': use joined_pikv"):
        parse_press("joined@press=knorm")


@pytest.mark.parametrize("seam", ["-1", "1.5", "true"])
def test_seams_are_numbers_of_tokens(seam):
    with pytest.raises(ValueError, match="seam must be a number of tokens"):
        parse_press(f"joined@seam={seam}")
