"""The router that does not look at the input."""

from __future__ import annotations

import torch

from tests.routers.making import ALL, features, make


def test_static_does_not_look_at_the_input():
    router = make("static", prior=(1.0, 2.0, 1.0, 1.0))
    first, second = (router(0, features(seed=seed), ALL).weights for seed in (0, 1))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first[0, 0], torch.tensor([0.2, 0.4, 0.2, 0.2]))
    assert not torch.equal(make("base")(0, features(), ALL).weights, first)
