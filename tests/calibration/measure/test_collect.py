"""One situation, measured."""

from __future__ import annotations

import torch

from pikvpress.calibration.measure.collect import collect
from tests.calibration.tiny import make_situations
from tests.conftest import make_tiny


def test_every_layer_and_future_is_measured(llama):
    (situation,) = make_situations(1, 60, 7, 5)
    found = collect(llama, situation, 3, 0)
    assert found["1/keys"].shape == found["1/values"].shape == (2, 60, 16)
    assert found["0/hidden"].shape == (60, 64) and found["0/hidden"].dtype == torch.float16
    for future, tokens in enumerate((7, 5)):
        assert found[f"0/{future}/queries"].shape == (4, tokens, 16)
        assert found[f"0/{future}/gradients"].shape == (3, 4, tokens, 16)


def test_the_seed_is_that_of_the_labels(llama):
    (situation,) = make_situations(1, 60, 7)
    first, again, other = (collect(llama, situation, 2, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(first["0/keys"], other["0/keys"])
    assert not torch.equal(first["0/0/gradients"], other["0/0/gradients"])


def test_futures_are_not_read_where_a_window_slides():
    (situation,) = make_situations(1, 60, 7)
    found = collect(make_tiny("gemma3", seed=1), situation, 1, 0)
    with_futures = {name.split("/")[0] for name in found if name.endswith("/queries")}
    assert with_futures and with_futures < {name.split("/")[0] for name in found}
