"""The report of one or several study folders: Markdown, CSV, one HTML page and PNG figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evaluation.files import write_whole
from evaluation.report import markdown, page, tables
from evaluation.report.figures.canvas import to_png
from evaluation.report.load import load, only
from evaluation.report.pictures import png_pictures
from evaluation.report.summary import summarise
from evaluation.report.theme import THEMES

__all__ = ["report"]


def report(folders: Sequence[Path], output: Path, presses: Sequence[str] = ()) -> list[Path]:
    """Write the report of study folders.

    Parameters
    ----------
    folders : sequence of Path
        Folders with `study.yaml` and samples; several are merged if model, seed and query_aware agree.
    output : Path
        Folder for `report.md`, `report.csv`, `report.html` and the figures; created if necessary.
    presses : sequence of str, optional
        Only these presses, by name. By default all.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    ValueError
        If a folder has no results, a line is invalid, a result occurs twice, the folders do not belong together, or a
        press has no results.
    """
    study = load([Path(folder) for folder in folders])
    summary = summarise(only(study, presses) if presses else study)
    pictures = list(png_pictures(summary))
    output = Path(output)
    written = [
        write_whole(output / "report.md", markdown.render(summary, pictures)),
        write_whole(output / "report.csv", tables.csv(summary)),
        write_whole(output / "report.html", page.render(summary)),
    ]
    for picture in pictures:
        for theme in THEMES:
            written.append(write_whole(output / f"{picture.name}-{theme.name}.png", to_png(picture.draw(theme))))
    return written
