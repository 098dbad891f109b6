"""Memory that reveals what a kernel leaves unwritten."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def poisoned(monkeypatch):
    """Fill what `torch.empty` returns with numbers that would show up in any result."""
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)

        def empty(*args, _original=original, **kwargs):
            made = _original(*args, **kwargs)
            return made.fill_(torch.nan if made.is_floating_point() else 113)

        monkeypatch.setattr(torch, name, empty)
