import pytest
from typer.testing import CliRunner

import pikvpress
from pikvpress.cli import app

runner = CliRunner()


def test_help_names_the_command_and_version_is_printed():
    assert "demo" in runner.invoke(app, ["--help"]).output
    assert runner.invoke(app, ["--version"]).output == f"pikvpress {pikvpress.__version__}\n"


@pytest.fixture
def note(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text(
        "The harbour was built in two pieces. " * 12 + "The report was written by Ada Quill. " + "Rain. " * 60
    )
    return path


def test_a_document_of_ones_own_is_answered_and_drawn(note, tmp_path):
    picture = tmp_path / "map.png"
    arguments = ["demo", "--document", str(note), "--question", "Who wrote the report?", "--ratio", "0.2"]
    result = runner.invoke(app, [*arguments, "--router", "base", "--picture", str(picture)])
    assert result.exit_code == 0, result.output
    assert result.output.count("Who wrote the report?") == 5
    assert "MoERouterPress (base router) at 20% used" in result.output
    assert picture.stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ratio", "1.5"], "must lie in [0, 1), got 1.5"),
        (["--router", "pikvv"], "did you mean pikv"),
        (["--model", "/nowhere"], "there is no model at /nowhere"),
        (["--question", "Who?"], "--document and --question go together"),
        (["--document", "/nowhere.txt", "--question", "Who?"], "No such file"),
        (["--picture", "/nowhere/map.png"], "the folder of --picture"),
    ],
)
def test_bad_input_ends_in_one_clear_line(arguments, message):
    result = runner.invoke(app, ["demo", *arguments])
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output


def test_documents_that_are_empty_or_too_long(tmp_path):
    empty, long = tmp_path / "empty.txt", tmp_path / "long.txt"
    empty.write_text("  \n")
    long.write_text("word " * 9000)
    for path, message in ((empty, "is empty"), (long, "positions: shorten the document")):
        result = runner.invoke(app, ["demo", "--document", str(path), "--question", "Who?"])
        assert result.exit_code == 2 and message in result.output
