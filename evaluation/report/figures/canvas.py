"""Panels of a fixed size in points, and figures as PNG or as SVG whose colours are CSS variables."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evaluation.report.theme import LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT = 10.5
DPI = 160
SAID = "said:"
SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": TEXT,
    "svg.fonttype": "none",
    "svg.hashsalt": "pikvpress",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    # Avoids the search for a free position, which takes a tenth of the time.
    "axes.titley": 1.0,
}


@dataclass(frozen=True)
class Box:
    """Size of a panel's axes and margins around them, in points."""

    width: float = 188.0
    height: float = 178.0
    left: float = 48.0
    right: float = 14.0
    top: float = 30.0
    bottom: float = 42.0

    @property
    def full(self) -> tuple[float, float]:
        """Width and height with margins."""
        return self.left + self.width + self.right, self.top + self.height + self.bottom


@contextmanager
def settings() -> Iterator[None]:
    """Apply the settings of this report to plots."""
    import matplotlib as mpl  # imported late: the import takes a second, and tables do not need it

    with mpl.rc_context(SETTINGS):
        yield


def grid(
    count: int, columns: int, box: Box, theme: Theme, above: float = 0.0, below: float = 0.0, beside: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels of exactly the given size, and room in points above, below and right of them."""
    from matplotlib.figure import Figure

    columns = min(columns, count)
    lines = -(-count // columns)
    width, height = box.full
    total_width, total_height = columns * width + beside, lines * height + above + below
    figure = Figure(figsize=(total_width / 72, total_height / 72), dpi=DPI, facecolor=theme.surface)
    panels = []
    for index in range(count):
        line, column = divmod(index, columns)
        left = (column * width + box.left) / total_width
        bottom = (total_height - above - (line + 1) * height + box.bottom) / total_height
        panel = figure.add_axes((left, bottom, box.width / total_width, box.height / total_height))
        panel.set_facecolor(theme.surface)
        panels.append(panel)
    return figure, panels


def style_axes(panel: Axes, theme: Theme, title: str) -> None:
    """Set unobtrusive axes, a light grid and a title for a panel."""
    panel.set_title(title, loc="left", fontsize=TEXT + 1, color=theme.ink, fontweight="bold", pad=10)
    panel.tick_params(colors=theme.muted, labelsize=TEXT - 0.5, length=0, which="both")
    panel.grid(color=theme.line, linewidth=0.8)
    panel.xaxis.label.set_color(theme.muted)
    panel.yaxis.label.set_color(theme.muted)
    for spine in panel.spines.values():
        spine.set_color(theme.line)


def say(artist: Artist, text: str) -> None:
    """Add a tooltip to a part of a figure."""
    artist.set_gid(SAID + text.replace('"', "'"))


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor=figure.get_facecolor())
    return stream.getvalue()


def to_svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure, drawn with the light theme, as an SVG element for a page that defines the theme's colours.

    Parameters
    ----------
    figure : Figure
        The figure to write.
    name : str
        Unique on the page; ids begin with it.
    description : str
        Description for screen readers.
    """
    stream = io.StringIO()
    with settings():
        figure.savefig(stream, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    # Unused ids, comments and empty groups are half of the text; the page has its own style sheet.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->|<g id=\"[^\"]*\"/>", "", text, flags=re.S)
    text = re.sub(rf'<g id="{SAID}([^"]*)">', r"<g><title>\1</title>", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    # Ids must be unique on a page with many figures, or a marker is taken from a figure that may be hidden.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r"<[^>]+>", lambda tag: _with_short_numbers(tag.group()), text)  # text is not changed
    for token, colour in LIGHT.tokens().items():
        text = re.sub(colour, f"var(--{token})", text, flags=re.I)
    head = f'<svg role="img" aria-label="{_escape(description)}" class="picture"'
    text = text.replace("<svg", head, 1)
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def _with_short_numbers(tag: str) -> str:
    """Return a tag with coordinates rounded to two digits, which is finer than a pixel."""
    return re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match.group()):.2f}".rstrip("0").rstrip("."), tag)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def widest(labels: Sequence[str], size: float = TEXT, bold: bool = False) -> float:
    """Return the width in points of the longest label."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
    return max((text_to_path.get_text_width_height_descent(label, font, False)[0] for label in labels), default=0.0)
