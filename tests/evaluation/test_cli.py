"""The command line of the harness."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from evaluation.cli import app

RUNNER = CliRunner()


@pytest.mark.parametrize("command", ["run", "report", "compare", "pack", "presses"])
def test_every_command_says_what_it_does(command):
    result = RUNNER.invoke(app, [command, "--help"])
    assert result.exit_code == 0 and "Usage" in result.output


def test_the_presses_are_listed():
    result = RUNNER.invoke(app, ["presses"])
    assert result.exit_code == 0
    assert "kvzip " in result.output and "masks only" in result.output and "needs @threshold" in result.output


def test_mistakes_end_with_status_2_and_a_reason(tmp_path):
    result = RUNNER.invoke(
        app, ["run", "--benchmark", "rulr", "--press", "knorm", "--ratio", "0.5", "--output", str(tmp_path / "new")]
    )
    assert result.exit_code == 2 and "did you mean ruler" in result.output
    result = RUNNER.invoke(app, ["report", str(tmp_path / "nothing")])
    assert result.exit_code == 2 and "nothing" in result.output
