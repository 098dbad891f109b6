"""Libraries that only some metrics need."""

from __future__ import annotations

import pytest

from evaluation.benchmarks.extra import extra


def test_missing_libraries_are_named():
    with pytest.raises(ImportError, match=r"library 'no_such_library' .* pip install 'pikvpress\[evaluation\]'"):
        extra("no_such_library.part")
