"""Every snippet and command in the README and the docs runs, and every link works."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from evaluation.benchmarks.registry import BENCHMARKS
from pikvpress import available_experts, default_model
from pikvpress.adaptation import AdaptationRecipe
from pikvpress.budgets import TOKEN_BUDGETS
from pikvpress.cache import CODECS
from pikvpress.calibration import Recipe
from pikvpress.calibration.data.texts import shipped_texts
from pikvpress.calibration.fit.objectives import OBJECTIVES
from pikvpress.experts import registry
from pikvpress.routers import ROUTERS
from tests.conftest import make_tiny
from tests.evaluation.tiny_tokenizer import make_tokenizer

ROOT = Path(__file__).resolve().parent.parent
GENERATED = "docs/kvpress-suite.md"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if path != ROOT / GENERATED
}
LINKED = [*PAGES, GENERATED, "CONTRIBUTING.md", "CHANGELOG.md"]
RESULTS = PAGES["docs/results.md"]
BENCHMARK = ".venv/bin/python -m benchmarks."


def blocks(page: str, language: str) -> list[str]:
    """Return a page's code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)


def prose(text: str) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


COMMANDS = [
    (page, line.split("#")[0].strip())
    for page in PAGES
    for block in blocks(page, "bash")
    for line in block.splitlines()
    if line.strip()
]


def commands(start: str) -> list[str]:
    """Return the commands of all pages that begin with one of these."""
    return [command for _, command in COMMANDS if command.startswith(start)]


def test_every_command_is_run_below():
    starts = ("make ", "pip install ", ".venv/bin/pikvpress ", ".venv/bin/python -m evaluation ", BENCHMARK)
    for page, command in COMMANDS:
        assert command.startswith(starts), f"{page}: {command}"
    assert {command.split()[1] for command in commands(".venv/bin/pikvpress")} == {
        "demo",
        "calibrate",
        "bases",
        "adapt",
    }


@pytest.fixture
def registries(monkeypatch):
    """Undo what pages register."""
    monkeypatch.setattr(registry, "_REGISTRY", registry.Registry("expert", registry._REGISTRY))
    before = [(known, dict(known)) for known in (ROUTERS, CODECS, TOKEN_BUDGETS)]
    yield
    for known, entries in before:
        known.clear()
        known.update(entries)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_all_snippets_of_a_page_run_one_after_the_other(page, smollm, registries, tmp_path, monkeypatch, capsys):
    """On one model, which is loaded once for all pages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path / "gates"))
    monkeypatch.setattr(default_model, "load_model", lambda: smollm)
    hasty = partial(Recipe, epochs=1, bases_steps=10)  # calibrations take seconds
    for name in ("calibrate", "fit.bases"):
        monkeypatch.setattr(sys.modules[f"pikvpress.calibration.{name}"], "Recipe", hasty)
    brief = partial(AdaptationRecipe, contexts=1, length=256, choosing=1, held_out=1)
    monkeypatch.setattr(sys.modules["pikvpress.adaptation.adapt"], "AdaptationRecipe", brief)
    namespace: dict = {"__name__": "__main__"}
    snippets = blocks(page, "python")
    try:
        for number, snippet in enumerate(snippets, start=1):
            exec(compile(snippet, f"{page}, snippet {number}", "exec"), namespace)
    finally:
        logging.getLogger("pikvpress").setLevel(logging.NOTSET)
    if page == "README.md":
        assert namespace["outputs"].shape[1] == namespace["inputs"]["input_ids"].shape[1] + 8
        assert capsys.readouterr().out.count("7316042") >= 2  # both presses find it
    if page == "docs/combining.md":
        assert (tmp_path / "plan.png").exists() and (tmp_path / "plan.json").exists()
    if page == "docs/calibrating.md":
        assert (tmp_path / "calibration/calibration.html").exists()


def test_the_readme_is_short():
    assert len(PAGES["README.md"].split()) <= 1500


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_short(page):
    """Except those in tables and pictures."""
    for line in prose(PAGES[page]).splitlines():
        assert len(line) <= 120 or line.startswith(("|", "<picture>")), line


@pytest.mark.parametrize("command", sorted(set(commands("make "))))
def test_make_knows_its_targets(command):
    """CI runs the targets themselves; for `make demo`, the test below does."""
    listed = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr


def test_what_is_named_in_passing_is_there():
    """This covers files, `make` targets and modules in the text."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page, text in PAGES.items():
        for code in re.findall(r"`([^`\n]+)`", prose(text)):
            if code.startswith("make "):
                assert code.split()[1] in targets, f"{page}: {code}"
            elif found := re.search(r"python -m (\S+)", code):
                assert importlib.util.find_spec(found[1]) is not None, f"{page}: {code}"
            elif re.fullmatch(r"(pikvpress|evaluation|benchmarks|docs|tests)/[\w./-]*", code):
                assert (ROOT / code).exists(), f"{page}: {code}"


def test_what_pip_installs_is_there():
    for command in commands("pip install "):
        words = shlex.split(command)[2:]
        for file in (words[i + 1] for i, word in enumerate(words) if word == "-r"):
            wanted = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
            for requirement in map(Requirement, wanted):
                assert requirement.specifier.contains(version(requirement.name))
    assert "pip install ." in commands("pip install ") and (ROOT / "pyproject.toml").exists()


def test_what_make_demo_runs_runs(tmp_path):
    listed = subprocess.run(
        ["make", "demo", "--dry-run", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    command = listed.stdout.strip().splitlines()[-1]
    assert command == ".venv/bin/pikvpress demo"
    program = Path(sys.executable).with_name("pikvpress")
    done = subprocess.run([program, "demo"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "6 questions about a document" in done.stdout
    assert (tmp_path / "routing.png").exists()


def run_as_written(command: str, folder: Path) -> str:
    """Run a command of the pages in its own folder and return what it prints."""
    program, *arguments = shlex.split(command)
    path = Path(sys.executable).with_name(Path(program).name)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # the reader is in the checkout
    done = subprocess.run([path, *arguments], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_note_is_asked_about(tmp_path):
    (tmp_path / "notes.txt").write_text("The report was written by Ada Quill. " + "It rained on the harbour. " * 60)
    (command,) = commands(".venv/bin/pikvpress demo")
    assert "Who wrote the report?" in run_as_written(command, tmp_path)


def test_a_model_is_calibrated(tmp_path, monkeypatch):
    """As on the page, but with a tiny model and shorter contexts, so that it takes seconds."""
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path / "gates"))
    make_tiny("llama", seed=31).save_pretrained(tmp_path)
    words = sorted({word for text in shipped_texts() for word in re.findall(r"\w+|[^\w\s]", text)})[:480]
    make_tokenizer(vocabulary=words).save_pretrained(tmp_path)
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(shipped_texts()[:4]):
        (tmp_path / f"texts/{number}.txt").write_text(text)
    (command,) = commands(".venv/bin/pikvpress calibrate")
    shorter = " --length 256 --minutes 0.01 --router base --expert keydiff --expert knorm"
    printed = run_as_written(command + shorter, tmp_path)
    assert "gates: " in printed and (tmp_path / "calibration/calibration.html").exists()
    assert len(list((tmp_path / "gates").iterdir())) == 1
    (command,) = commands(".venv/bin/pikvpress bases")
    assert "bases: bases.safetensors" in run_as_written(command + " --rank 8 --contexts 2 --length 256", tmp_path)
    (command,) = commands(".venv/bin/pikvpress adapt")
    for number, text in enumerate(shipped_texts()[4:8], start=4):  # some to train on, to decide on, and to report on
        (tmp_path / f"texts/{number}.txt").write_text(text)
    printed = run_as_written(command + " --length 256 --minutes 0.01", tmp_path)
    assert "perplexity with the full cache: " in printed


def test_the_harness_runs_reports_and_compares(tmp_path):
    run, report, compare, presses = [
        command for command in commands(".venv/bin/python -m evaluation") if "evaluation/" not in command
    ]
    run_as_written(run + " --task niah_single_1 --task vt", tmp_path)
    study = yaml.safe_load((tmp_path / "results/first/study.yaml").read_text())
    assert study["benchmarks"][0]["samples"] == {"1024": 2}
    (folder,) = (tmp_path / "results/first").glob("ruler*__1024__SmolLM2-135M-Instruct__moe_router__0.50*")
    assert all((folder / name).exists() for name in ("predictions.csv", "metrics.json", "config.yaml"))
    assert "report.html" in run_as_written(report, tmp_path)
    assert "moe_router, as a share of the best of knorm" in run_as_written(compare, tmp_path)
    assert "moe_router" in run_as_written(presses, tmp_path)


def test_a_study_runs(tmp_path):
    """One sample of the first study, with another press; `tests/evaluation/test_continuing.py` runs the second."""
    command, generation = commands(".venv/bin/python -m evaluation run evaluation/")
    assert (ROOT / generation.split()[-1]).exists()
    shutil.copytree(ROOT / "evaluation/studies", tmp_path / "evaluation/studies")
    smaller = " --benchmark fidelity --length 256 --task needle --samples 1 --press knorm --ratio 0.5 --output results"
    run_as_written(command + smaller, tmp_path)
    assert (tmp_path / "results/study.yaml").exists()


@pytest.mark.parametrize("command", commands(".venv/bin/python -m evaluation compare evaluation/"))
def test_factors_are_those_that_compare_prints(command, tmp_path):
    printed = run_as_written(command.replace(" evaluation/", f" {ROOT}/evaluation/"), tmp_path)
    found = re.findall(r": (\d\.\d{3}) \((\d\.\d{3}) to (\d\.\d{3})\) of", printed)
    presses, ratios = command.count("--press "), 5 if "bytes" in command else 4
    assert len(found) == presses * ratios
    for mean, low, high in found:
        assert mean in RESULTS
        assert re.search(rf"{low}\s+to\s+{high}", RESULTS)


def test_benchmarks_are_there():
    """`tests/test_benchmarks.py` runs them."""
    for command in commands(BENCHMARK):
        module, *options = command.removeprefix(".venv/bin/python -m ").split()
        found = importlib.util.find_spec(module)
        assert found is not None and found.origin is not None, command
        assert all(option.removeprefix("--") in Path(found.origin).read_text() for option in options), command


def test_lists_are_complete():
    page = PAGES["docs/calibrating.md"]
    for name in available_experts():
        assert f"`{name}`" in page
    for name in ROUTERS:
        assert f"| `{name}`" in page
    for name in TOKEN_BUDGETS:
        assert f'| `"{name}"`' in page
    for name in OBJECTIVES:
        assert name in page
    for name in CODECS:
        assert f"`{name}`" in PAGES["docs/cache.md"]
    for name in BENCHMARKS:
        assert f"`{name}`" in PAGES["docs/measuring.md"]


def test_figures_of_the_readme_are_among_the_results():
    rows = re.findall(r"^\| (?!share)[^|]*\|((?: [\d.]+ \|){4})$", PAGES["README.md"], flags=re.MULTILINE)
    assert len(rows) == 5
    for row in rows:
        figures = re.findall(r"[\d.]+", row)
        assert re.search(r" +".join(map(re.escape, figures)), RESULTS), row


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub creates for the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED)
def test_links_hold(page):
    text = (ROOT / page).read_text()
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(text)) + re.findall(r'src(?:set)?="([^"]+)"', text)
    for target in targets:
        file, _, anchor = target.partition("#")
        if file.startswith("http"):
            continue
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), target
