"""Arguments that presses reject."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache, StaticCache

from pikvpress.presses.checks import checked_ratio, refuse_masked_keys, refuse_padding, refuse_static
from tests.conftest import make_tiny


def test_ratios():
    assert checked_ratio(0) == 0.0 and isinstance(checked_ratio(0), float)
    for value in (1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
            checked_ratio(value)
    for value in (True, "0.5", None):
        with pytest.raises(TypeError, match="must be a number"):
            checked_ratio(value)


def test_masked_keys_name_the_layer_and_the_way_out():
    refuse_masked_keys(SimpleNamespace(layer_idx=3, masked_key_indices=None), "go")
    with pytest.raises(ValueError, match="masked keys of layer 3: go away"):
        refuse_masked_keys(SimpleNamespace(layer_idx=3, masked_key_indices=()), "go away")


def test_static_caches():
    refuse_static(None)
    refuse_static(DynamicCache())
    with pytest.raises(ValueError, match="a StaticCache has a fixed number of entries"):
        refuse_static(StaticCache(make_tiny().config, max_cache_len=8))


@pytest.mark.parametrize("additive", [True, False])
def test_padding_hides_keys_from_the_last_query(additive):
    seen = torch.ones(2, 1, 4, 4, dtype=torch.bool).tril()
    as_given = torch.where(seen, 0.0, torch.finfo(torch.float32).min) if additive else seen
    refuse_padding(None)
    refuse_padding(as_given)
    refuse_padding(torch.ones(2, 4))
    seen[1, :, :, 0] = False
    as_given = torch.where(seen, 0.0, torch.finfo(torch.float32).min) if additive else seen
    with pytest.raises(ValueError, match="the batch is padded"):
        refuse_padding(as_given)
