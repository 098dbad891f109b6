"""Codecs that keep only a few directions."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import codec
from tests.cache.test_ragged import DIM, stored


@pytest.mark.parametrize("name", ["rank8", "rank16", "rank16+int2", "rank100"])
@pytest.mark.parametrize("is_keys", [True, False])
def test_low_rank_keeps_the_leading_directions(name, is_keys):
    generator = torch.Generator().manual_seed(1)
    mixed = torch.randn(300, 12, generator=generator) @ torch.randn(12, 128, generator=generator) + 3
    parts = [mixed, mixed[:5], mixed[:0]]
    ragged = stored(parts, name, is_keys)
    said = [codec(name).nbytes(len(part), 128, torch.float32, is_keys) for part in parts]
    assert sum(said) <= ragged.nbytes < sum(said) + 16 * len(parts)
    error = (ragged.part(0) - mixed).norm() / (mixed - mixed.mean(dim=0)).norm()
    assert error < {"rank8": 0.6, "rank16": 0.02, "rank16+int2": 0.02, "rank100": 0.02}[name]
    assert name != "rank8" or error > 0.3
    assert (ragged.part(1) - mixed[:5]).abs().max() < 0.2 and ragged.part(2).shape == (0, 128)
    assert name == "rank100" or ragged.nbytes < 0.25 * mixed.nbytes


def test_the_residual_lessens_the_error():
    noisy = torch.randn(300, DIM, generator=torch.Generator().manual_seed(2))
    errors = [(stored([noisy], name).part(0) - noisy).norm() for name in ("rank8", "rank8+int2", "rank8+int4")]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
