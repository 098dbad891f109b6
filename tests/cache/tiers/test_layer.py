"""A layer on a tier fetches its entries when they are needed, and only then."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import PiKVLayer, Tiers
from pikvpress.cache.tiers.fetching import FETCHER
from pikvpress.cache.tiers.storage import Storage
from tests.cache.tiers.cases import dense


@pytest.fixture
def layer(tmp_path):
    """Return a layer of 80 dense entries that lies in a file."""
    layer, states = PiKVLayer(), dense(80)
    layer.update(states.keys, states.values)
    layer.lie_in(Storage(Tiers({"file": 1}, folder=tmp_path)), 0)
    layer.rest()
    return layer


def is_away(layer):
    return "entries" not in vars(layer)


def test_measuring_fetches_nothing(layer):
    assert is_away(layer)
    assert layer.get_seq_length() == layer.recent == 80 and layer.counts() == [[80, 80]]
    assert layer.nbytes == 2 * 2 * 80 * 16 * 4 and layer.codec_names() == ("exact", "exact")
    assert layer.tier_bytes() == {"device": 0, "file": layer.nbytes}
    layer.settle()
    assert is_away(layer)
    with pytest.raises(AttributeError, match="'PiKVLayer' object has no attribute 'entrees'"):
        layer.entrees  # noqa: B018


def test_keys_are_fetched_and_put_back(layer):
    assert torch.equal(layer.keys, dense(80).keys) and not is_away(layer)
    assert layer.tier_bytes() == {"device": layer.nbytes}
    layer.rest()
    assert is_away(layer)
    layer.crop(60)
    assert is_away(layer) and layer.get_seq_length() == 60 and torch.equal(layer.values, dense(80).values[:, :, :60])


def test_what_is_prefetched_is_taken_once(layer, monkeypatch):
    started, start = [], FETCHER.start
    monkeypatch.setattr(FETCHER, "start", lambda *args: started.append(args) or start(*args))
    layer.prefetch()
    layer.prefetch()
    assert len(started) == 1 and torch.equal(layer.keys, dense(80).keys)
    layer.prefetch()
    assert len(started) == 1
    layer.rest()
    layer.prefetch()
    layer.reset()
    assert len(started) == 2 and layer.get_seq_length() == 0 and layer.nbytes == 0 and not is_away(layer)


def test_it_moves_to_another_storage_or_back(layer, tmp_path):
    (tmp_path / "other").mkdir()
    layer.lie_in(Storage(Tiers({"file": 1}, folder=tmp_path / "other")), 0)
    layer.move()
    assert is_away(layer) and len(list((tmp_path / "other").iterdir())) == 1
    layer.lie_in(None, 0)
    layer.move()
    assert layer.tier_bytes() == {"device": layer.nbytes} and torch.equal(layer.keys, dense(80).keys)
    layer.to("meta")
    assert layer.keys.is_meta
