"""The command `pikvpress adapt`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from pikvpress.cli import app

runner = CliRunner()


def test_an_adapter_is_trained_and_its_gain_is_told(tiny_folder, tmp_path):
    (tmp_path / "texts").mkdir()
    for number in range(8):
        text = "".join(f"Line {i} of text {number} tells of things. " for i in range(60))
        (tmp_path / f"texts/{number}.txt").write_text(text)
    arguments = ["adapt", tmp_path / "adapter", "--model", tiny_folder, "--texts", tmp_path / "texts"]
    arguments += ["--length", 256, "--minutes", 0.05, "--rank", 2, "--rate-ratio", 2, "--ratio", 0.9375]
    result = runner.invoke(app, list(map(str, arguments)))
    assert "PiKVPress 93.75%: divergence 0." in result.output
    assert "perplexity with the full cache: " in result.output
    if result.exit_code == 0:
        assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["r"] == 2
    else:
        assert result.exit_code == 2 and "gained nothing" in result.output and not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--rank", "0"], "rank must be in [1, 64], got 0"),
        (["x", "--objective", "klx"], "did you mean kl"),
        (["x", "--ratio", "1.5"], "must be in [0, 1), got 1.5"),
        (["nowhere/x"], "the folder of output='nowhere/x' does not exist"),
    ],
)
def test_bad_adaptations_end_in_one_clear_line(arguments, message, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, ["adapt", *arguments, "--model", str(tiny_folder)])
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output
