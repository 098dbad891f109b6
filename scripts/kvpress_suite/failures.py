"""Records of exceptions."""

from __future__ import annotations

import importlib.util
import re
import traceback
from pathlib import Path

from scripts.kvpress_suite.records import Failure

LONGEST = 400
_FOLDER = re.compile(r"(?<![\w:/])(/[\w.+-]+)+/(?=[\w.+-])")  # of a path, not of an address


def failure_of(error: BaseException) -> Failure:
    """Return the record of an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    innermost = Path(frames[-1].filename) if frames else Path()
    found = importlib.util.find_spec("pikvpress")  # found, not imported
    package = Path(found.origin).parent if found and found.origin else None
    ours = package is not None and package in innermost.parents
    message = _FOLDER.sub("", str(error))[:LONGEST]
    return Failure(type(error).__name__, message, _below(innermost, package), ours)


def _below(file: Path, package: Path | None) -> str:
    """Return a file's path relative to its package or test folder, independent of this machine."""
    if package is not None and package in file.parents:
        return str(file.relative_to(package.parent))
    for top in ("site-packages", "tests"):
        if top in file.parts:
            at = len(file.parts) - 1 - file.parts[::-1].index(top)
            return "/".join(file.parts[at + (top == "site-packages") :])
    return file.name
