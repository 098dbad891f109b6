"""The report as Markdown."""

from __future__ import annotations

import re
from pathlib import Path


def test_markdown_names_what_was_written_beside_it(written: dict[str, Path]) -> None:
    text = written["report.md"].read_text()
    assert "![" not in text and "<img" not in text  # images are not committed
    pictures = re.findall(r"^- `([\w-]+)`: ", text, flags=re.M)
    named = {f"{name}-{theme}.png" for name in pictures for theme in ("light", "dark")}
    assert named == {name for name in written if name.endswith(".png")}
    assert "| full cache |" in text
    assert "(masked: bytes still held)" in text
