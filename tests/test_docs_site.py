"""The docs and the API reference build as a site, and every link in it works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the docs extra is not installed")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_readme_comes_first_and_pages_beside_the_docs_are_there(site):
    assert "<h1" in (site / "index.html").read_text()
    assert (site / "CONTRIBUTING.html").exists() and (site / "evaluation/results/gates-fidelity/report.html").exists()


def test_every_file_that_a_page_shows_or_links_to_is_there(site):
    """MkDocs checks only Markdown links, not those in embedded HTML."""
    checked = 0
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue  # its links start at the root
        for target in re.findall(r'(?:src|srcset|href)="([^"#?]+)', page.read_text()):
            if not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), f"{page.relative_to(site)}: {target}"
                checked += 1
    assert checked > 100


def test_diagrams_are_left_to_mermaid(site):
    assert '<pre class="mermaid">' in (site / "design.html").read_text()


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("presses", "pikvpress.MoERouterPress"),
        ("cache", "pikvpress.cache.PiKVCache.pack"),
        ("experts", "pikvpress.experts.register_expert"),
        ("routers", "pikvpress.routers.Router.probabilities"),
        ("gates", "pikvpress.calibration.calibrate"),
        ("plan", "pikvpress.Plan.save"),
        ("store", "pikvpress.store.CacheStore.reading"),
    ],
)
def test_the_reference_has_what_the_docstrings_say(site, page, name):
    text = (site / f"api/{page}.html").read_text()
    assert f'id="{name}"' in text and "Parameters" in text
