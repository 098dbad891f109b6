"""Memory that reveals what a kernel leaves unwritten."""

from __future__ import annotations

import pytest

from benchmarks.kernels import poisoned as memory


@pytest.fixture
def poisoned():
    with memory.poisoned():
        yield
