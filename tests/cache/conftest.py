"""Contexts and questions for tests of the cache."""

from __future__ import annotations

import pytest
import torch

from tests.cache.asking import CONTEXT, NEW


@pytest.fixture
def context():
    return torch.randperm(511, generator=torch.Generator().manual_seed(3))[None, :CONTEXT] + 1


@pytest.fixture
def question():
    return torch.arange(20, 20 + NEW)[None]
