"""Panels of an exact size, and SVG of which a page can hold many."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from evaluation.report.figures.canvas import Box, grid, say, settings, style_axes, to_png, to_svg, widest
from evaluation.report.theme import LIGHT


def test_panels_have_the_size_they_were_given():
    box = Box(width=100, height=50)
    with settings():
        figure, panels = grid(3, 2, box, LIGHT, above=10)
    width, height = figure.get_size_inches() * 72
    assert (width, height) == pytest.approx((2 * box.full[0], 2 * box.full[1] + 10))
    for panel in panels:
        place = panel.get_position()
        assert (place.width * width, place.height * height) == pytest.approx((100, 50))


def test_an_svg_has_ids_of_its_own_and_says_what_it_is_told():
    with settings():
        figure, (panel,) = grid(1, 1, Box(), LIGHT)
        style_axes(panel, LIGHT, "A <title>")
        say(panel.plot([0, 1], [0, 1], color=LIGHT.ink)[0], "a line")
        text = to_svg(figure, "mine", 'shows "x"')
    root = ElementTree.fromstring(text)
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert all(name.startswith("mine-") for name in ids) and root.attrib["aria-label"] == 'shows "x"'
    assert any(element.text == "a line" for element in root.iter() if element.tag.endswith("title"))
    assert "var(--ink)" in text
    assert to_png(figure).startswith(b"\x89PNG")


def test_the_widest_label():
    assert widest([]) == 0 and widest(["i", "mmm"]) == widest(["mmm"]) > widest(["i"])
    assert widest(["mmm"], bold=True) > widest(["mmm"])
