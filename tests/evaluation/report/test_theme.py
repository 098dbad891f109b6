"""Colours that are legible and distinguishable."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation.report.theme import DARK, FOUND, LIGHT, blend, contrast, text_on


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_colours_can_be_read(theme: Any) -> None:
    texts = (theme.ink, theme.muted, theme.good, theme.bad, *theme.accents)
    assert min(contrast(text, surface) for text in texts for surface in (theme.surface, theme.page)) >= 4.5
    assert min(contrast(colour, theme.surface) for colour in theme.series) >= 3.0
    cells = [blend(ramp, step / 20) for ramp in (theme.ramp, FOUND) for step in range(21)]
    assert min(contrast(text_on(cell), cell) for cell in cells) >= 4.5
    assert len(set(theme.tokens().values())) == len(theme.tokens())
