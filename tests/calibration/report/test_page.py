"""The calibration report."""

from __future__ import annotations

import pytest

from pikvpress.calibration import calibrate, write_report
from pikvpress.calibration.report import check_folder
from tests.calibration.tiny import SETTINGS, TEXTS, Tokenizer
from tests.conftest import make_tiny


def test_the_report_shows_what_was_found(tmp_path):
    path = tmp_path / "gates.safetensors"
    found = calibrate(make_tiny("llama", seed=14), Tokenizer(), TEXTS, output=path, **SETTINGS | {"objective": "kl"})
    page, picture = write_report(found, tmp_path / "report")
    text = page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG") and "data:image/png;base64," in text
    for expected in (
        "pikv, equal budgets: prior",
        "pikv, fitted budgets: end to end",
        "saliency of entries",
        "regret",
        *found.path.name.split(),
    ):
        assert expected in text
    shares = found.findings.expert_shares()
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert all(times > 0 for _, times in found.findings.best_alone())


def test_a_report_that_cannot_be_written_is_refused_early(tmp_path):
    (tmp_path / "file").write_text("")
    check_folder(tmp_path / "new" / "folder")
    with pytest.raises(NotADirectoryError, match="is not a folder; choose another"):
        check_folder(tmp_path / "file" / "folder")
