"""A context, a future and a full cache, on several architectures."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import make_tiny

CONTEXT, FUTURE = 90, 12


@pytest.fixture(scope="module", params=["llama", "phi3", "qwen3"])
def case(request):
    model = make_tiny(request.param, seed=3)
    ids = torch.randint(1, 500, (CONTEXT + FUTURE,), generator=torch.Generator().manual_seed(1)).tolist()
    return model, tuple(ids[:CONTEXT]), tuple(ids[CONTEXT:])
