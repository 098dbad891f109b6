"""Colours, one set for light and one for dark backgrounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Anchors = tuple[tuple[float, str], ...]

# Dark red, amber, cream, teal: looks like red to green, but differs in lightness and blue, also for colour-blind
# readers.
FOUND: Anchors = (
    (0.0, "#8f1d1a"),
    (0.25, "#d4552f"),
    (0.5, "#f3b95c"),
    (0.7, "#f1e6a6"),
    (0.85, "#7cc7a5"),
    (1.0, "#1f8a7a"),
)


@dataclass(frozen=True)
class Theme:
    """Colours of one background; each name has a unique colour, so that a colour in an SVG identifies its name."""

    name: str
    page: str
    surface: str
    ink: str
    muted: str
    line: str
    accents: tuple[str, ...]
    series: tuple[str, ...]
    good: str
    bad: str
    ramp: Anchors

    def tokens(self) -> dict[str, str]:
        """Return every colour by its name in CSS."""
        named = {key: getattr(self, key) for key in ("page", "surface", "ink", "muted", "line", "good", "bad")}
        named.update({f"accent{i}": colour for i, colour in enumerate(self.accents)})
        named.update({f"series{i}": colour for i, colour in enumerate(self.series)})
        return named


LIGHT = Theme(
    name="light",
    page="#f6f7f9",
    surface="#ffffff",
    ink="#1a1f26",
    muted="#58626e",
    line="#e1e5ea",
    accents=("#0b57d0", "#5a3cc4", "#00708f"),
    series=("#2f8f83", "#b9791a", "#9b5797", "#bd5646", "#70892f", "#c9678c", "#8c6c52", "#75818f"),
    good="#0a6b50",
    bad="#a8321d",
    ramp=((0.0, "#f0f4fa"), (0.4, "#a9c6ee"), (0.75, "#3f7fd0"), (1.0, "#0a3a82")),
)
DARK = Theme(
    name="dark",
    page="#0e1116",
    surface="#161b22",
    ink="#e8ecf1",
    muted="#a2adba",
    line="#2b323c",
    accents=("#79b0ff", "#b3a0ff", "#5cc9e8"),
    series=("#4fae9f", "#c9973f", "#b980b5", "#d3796a", "#95b057", "#d98aa8", "#ad8e74", "#8794a3"),
    good="#58c9a3",
    bad="#f1937f",
    ramp=((0.0, "#1b2430"), (0.4, "#24508c"), (0.75, "#5a98e6"), (1.0, "#cfe2ff")),
)
THEMES = (LIGHT, DARK)
MARKERS = ("o", "s", "^", "D")


@dataclass(frozen=True)
class Look:
    """The style of a press, which is the same in every figure."""

    token: str
    marker: str
    highlighted: bool
    hollow: bool


def looks(presses: Sequence[str], highlighted: Sequence[str], masked: set[str]) -> dict[str, Look]:
    """Give each press a colour and marker by its position in the study, so that they are the same in all figures."""
    answer: dict[str, Look] = {}
    places = {True: 0, False: 0}
    for name in presses:
        special = name in highlighted
        prefix, colours = ("accent", LIGHT.accents) if special else ("series", LIGHT.series)
        place = places[special]
        places[special] += 1
        marker = MARKERS[place // len(colours) % len(MARKERS)]
        answer[name] = Look(f"{prefix}{place % len(colours)}", marker, special, name in masked)
    return answer


def blend(anchors: Anchors, position: float) -> str:
    """Return the colour at a position from 0 to 1 of a ramp."""
    position = min(1.0, max(0.0, position))
    for (left, first), (right, second) in pairwise(anchors):
        if position <= right:
            part = (position - left) / (right - left)
            pairs = zip(_channels(first), _channels(second), strict=True)
            return "#" + "".join(f"{round(a + part * (b - a)):02x}" for a, b in pairs)
    return anchors[-1][1]


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours according to WCAG."""
    bright, dim = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def text_on(colour: str) -> str:
    """Return black or white, whichever is more readable on a colour."""
    return max(("#000000", "#ffffff"), key=lambda text: contrast(text, colour))


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _luminance(colour: str) -> float:
    parts = [channel / 255 for channel in _channels(colour)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
