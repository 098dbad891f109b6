import pytest
from typer.testing import CliRunner

import pikvpress
from pikvpress.cache import load_bases
from pikvpress.cli import app
from pikvpress.gates import load_gates

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
    assert result.output.count("Who wrote the report?") == 7
    assert "MoERouterPress (base router) at 20% used" in result.output
    steps = [line for line in result.output.splitlines() if line.startswith("[")]
    assert steps[0] == "[1/7] full cache" and steps[-1] == "[7/7] PiKVPress 94%", "one line per step"
    assert "\r" not in result.output and "\x1b" not in result.output
    assert picture.stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ratio", "1.5"], "must be in [0, 1), got 1.5"),
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


def test_calibration_writes_gates_and_a_report(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path / "gates"))
    (tmp_path / "texts").mkdir()
    for number in range(4):
        text = "".join(f"Line {i} of text {number} tells of things. " for i in range(60))
        (tmp_path / f"texts/{number}.txt").write_text(text)
    arguments = ["calibrate", "--model", tiny_folder, "--texts", tmp_path / "texts", "--length", 256]
    arguments += ["--minutes", 0.01, "--max-experts", 2, "--router", "base", "--report", tmp_path / "report"]
    arguments += ["--setting", "dropout=0.1", "--setting", "aux_loss_weight=0.5"]
    for expert in ("keydiff", "knorm", "probe_attention"):
        arguments += ["--expert", expert]
    result = runner.invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    (gates,) = (tmp_path / "gates").iterdir()
    assert str(gates) in result.output and gates.name.startswith("llama-")
    assert gates.stat().st_size < 2**20
    told = load_gates(gates).about["settings"]
    assert (told["dropout"], told["aux_loss_weight"]) == (0.1, 0.5)
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"calibration.html", "calibration.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--texts", "/nowhere"], "there is no text at /nowhere"),
        (["--model", "/nowhere"], "there is no model at /nowhere"),
        (["--objective", "mse"], "unknown objective 'mse': known are kl"),
        (["--router", "pivk"], "did you mean pikv"),
        (["--minutes", "-1"], "minutes must be more than 0"),
        (["--length", "100"], "at least 256 tokens"),
        (["--setting", "dropout=2"], "dropout must be in [0, 1), got 2"),
        (["--setting", "droput=0.1"], "did you mean dropout"),
    ],
)
def test_bad_calibrations_end_in_one_clear_line(arguments, message, tiny_folder):
    result = runner.invoke(app, ["calibrate", "--model", str(tiny_folder), *arguments])
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output


def test_bases_are_written_for_a_cache(tiny_folder, tmp_path):
    (tmp_path / "text.txt").write_text("".join(f"Line {i} of text 0 tells of things. " for i in range(400)))
    arguments = ["bases", tmp_path / "x.safetensors", "--model", tiny_folder, "--texts", tmp_path / "text.txt"]
    arguments += ["--rank", 8, "--contexts", 2, "--length", 256]
    result = runner.invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert load_bases(tmp_path / "x.safetensors").about["rank"] == 8
    assert "keys: variance left on held-out text" in result.output and "with correction" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["x", "--rank", "99"], "rank must be from 1 to 15"), (["nowhere/x"], "nowhere is not a folder")],
)
def test_bad_bases_end_in_one_clear_line(arguments, message, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, ["bases", *arguments, "--model", str(tiny_folder)])
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output
