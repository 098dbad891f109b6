"""The report as one HTML page."""

from __future__ import annotations

import re
from pathlib import Path

from evaluation.report import report
from tests.evaluation.report.made_up import PRESSES, WRITTEN_RATIOS, small_study


def test_page_is_self_contained_and_small(written: dict[str, Path]) -> None:
    page = written["report.html"].read_text()
    assert len(page) < 1_000_000
    for outside in ("<script", "<link", "<img", "@import", "src=", "url(http", 'href="http'):
        assert outside not in page
    assert "prefers-color-scheme:dark" in page
    assert page.count("<svg role=") == page.count('<svg role="img" aria-label="')
    ids = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    pictures = "".join(part.split("</svg>")[0] for part in page.split("<svg role=")[1:])
    assert ">0.875</text>" in pictures and ">0.88</text>" not in pictures
    assert "#" not in pictures.replace('href="#', "").replace("url(#", "")


def test_curves_have_the_width_of_the_page_and_say_their_values(written: dict[str, Path]) -> None:
    page = written["report.html"].read_text()
    curves = page.split('<div class="wide">')[1].split("</div>")[0]
    widths = [float(width) for width in re.findall(r'width="([\d.]+)pt"', curves)]
    assert widths and min(widths) > 500
    said = [part.split("</title>")[0] for part in curves.split("<title>")[1:]]
    assert len(said) == curves.count("<svg ") * len(PRESSES) * len(WRITTEN_RATIOS)
    assert any(re.fullmatch(r"snapkv, ratio 0.5: [\d.]+ \([\d.]+ to [\d.]+\)", text) for text in said)


def test_labels_stand_for_names_everywhere_but_in_the_list_of_presses(tmp_path: Path) -> None:
    names = {"moe_router": "Our Router", "snapkv": "Snap & Co", "adakv_compactor": "Ada", "think": "ThinK"}
    folder = small_study(tmp_path / "study", labels=names)
    files = {path.name: path.read_text() for path in report([folder], tmp_path / "out") if path.suffix != ".png"}
    assert files["report.csv"].count("snapkv") and "Our Router" not in files["report.csv"]
    for name, label in names.items():
        for file, shown in (("report.md", label), ("report.html", label.replace("&", "&amp;"))):
            assert files[file].count(shown) > 5 and files[file].count(name) == 1, (file, name)
