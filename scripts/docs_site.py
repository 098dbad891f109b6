"""MkDocs hooks that add files outside `docs/` to the site, such as the README, and adapt links.

In the repository, links lead from file to file. The site has the pages of `docs/` at its top level, so links are
rewritten and their targets are added: pages become pages, all other files are copied. MkDocs calls the functions by
name.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r'(?P<before>\]\(|src="|srcset=")(?P<target>[^)\s"#]+)')


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside `docs/`, and all files that pages link to."""
    waiting = [*OUTSIDE, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    seen = set(waiting)
    for path in waiting:
        if not path.startswith("docs/"):
            files.append(File.generated(config, site_path(path), abs_src_path=str(ROOT / path)))
        found = linked(path) if path.endswith(".md") else set()
        waiting += sorted(found - seen)
        seen |= found
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of a page for the site."""
    path = repository_path(page.file.src_uri)
    here = posixpath.dirname(page.file.src_uri)

    def on_site(target: str) -> str:
        return posixpath.relpath(site_path(target), here or ".")

    return with_links(markdown, path, on_site)


def site_path(path: str) -> str:
    """Return the path of a repository file on the site."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def repository_path(path: str) -> str:
    """Return the path of a site file in the repository."""
    if path == "index.md":
        return "README.md"
    return f"docs/{path}" if (ROOT / "docs" / path).exists() else path


def linked(path: str) -> set[str]:
    """Return the files of the repository that a page links to."""
    found: set[str] = set()
    with_links((ROOT / path).read_text(encoding="utf-8"), path, lambda target: found.add(target) or target)
    return found


def with_links(text: str, path: str, written: Callable[[str], str]) -> str:
    """Return a page with every link to a repository file rewritten by a function."""

    def replaced(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match["target"]))
        return match["before"] + (written(target) if (ROOT / target).is_file() else match["target"])

    return LINK.sub(replaced, text)
