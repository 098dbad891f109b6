"""Texts for measurements, from what Python itself carries: nothing to fetch."""

from __future__ import annotations

import inspect
import pydoc_data.topics as topics
import tarfile
import zipfile


def prose() -> str:
    """Return the Python language reference, about 200,000 tokens of technical prose."""
    return "\n\n".join(text for _, text in sorted(topics.topics.items()))


def code() -> str:
    """Return the source of two modules of the standard library."""
    return "\n\n".join(inspect.getsource(module) for module in (tarfile, zipfile))
