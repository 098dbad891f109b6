"""Calibrated directions, and the cache that stores coordinates along them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from transformers import DynamicCache

from pikvpress import PiKVCache, models
from pikvpress.cache import load_bases, save_bases
from pikvpress.cache.calibrated import read_back
from pikvpress.calibration import calibrate_bases
from tests.cache.test_pikv_cache import ask, read
from tests.calibration.tiny import Tokenizer
from tests.conftest import make_tiny

SETTINGS = {"contexts": 3, "length": 256}


@pytest.fixture(scope="module")
def texts():
    return ["".join(f"Line {i} of text {n} tells of things. " for i in range(40)) for n in range(8)]


@pytest.fixture(scope="module")
def model():
    return make_tiny("llama")


@pytest.fixture(scope="module")
def bases(model, texts):
    return calibrate_bases(model, Tokenizer(), texts, rank=12, **SETTINGS)


@pytest.fixture
def question():
    return torch.arange(40, 46)[None]


@torch.no_grad()
def test_a_cache_holds_the_projections(model, ids, bases):
    cache, exact = read(model, ids, PiKVCache(bases, bases, window=20)), read(model, ids, DynamicCache())
    cache.layers[0].settle()
    for side, name in ((bases.keys, "keys"), (bases.values, "values")):
        states = getattr(exact.layers[0], name)[0, 1, :280]
        factors = {key: tensor[0, 1].float() for key, tensor in side.items()}
        expected = read_back((states - factors["mean"]) @ factors["directions"].T, factors)
        found = getattr(cache.layers[0].entries.compressed.context[0], name).part(1)
        torch.testing.assert_close(found, expected, atol=0.02 * states.abs().max().item(), rtol=0)
    assert cache.nbytes - bases.nbytes < 0.4 * sum(layer.keys.nbytes + layer.values.nbytes for layer in exact.layers)
    assert "calibrated12+learned" in str(cache)


@torch.no_grad()
def test_more_directions_lose_less(model, texts, ids, question):
    exact = ask(model, question, read(model, ids, DynamicCache()))
    errors = []
    for rank in (4, 15):
        bases = calibrate_bases(model, Tokenizer(), texts, rank=rank, learned=False, **SETTINGS)
        errors.append((ask(model, question, read(model, ids, PiKVCache(bases, bases, window=8))) - exact).abs().mean())
    assert errors[1] < 0.7 * errors[0]


@torch.no_grad()
def test_what_follows_is_packed_cropped_and_copied(model, ids, bases):
    cache = read(model, ids, PiKVCache("exact", bases, window=10))
    more = torch.randint(1, 500, (1, 200), generator=torch.Generator().manual_seed(1))
    for start in range(0, 200, 20):
        model(input_ids=more[:, start : start + 20], past_key_values=cache)
    assert cache.layers[0].entries.compressed.decoded.length == 128
    twins = copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))
    held, length = cache.layers[0].entries.compressed.decoded.values.part(0)[:64].clone(), ids.shape[1]
    cache.crop(length + 100)
    assert cache.get_seq_length() == length + 100 and cache.layers[0].entries.compressed.decoded.length == 64
    torch.testing.assert_close(cache.layers[0].entries.compressed.decoded.values.part(0), held)
    expected = ask(model, more[:, :6], cache)
    for twin in twins:
        twin.crop(length + 100)
        assert torch.equal(ask(model, more[:, :6], twin), expected)
        assert twin.nbytes == cache.nbytes


def test_a_file_is_read_as_it_was_written(tmp_path, ids, model, bases, question):
    path = tmp_path / "bases.safetensors"
    save_bases(path, bases)
    again = load_bases(path)
    assert again.about == bases.about and again.nbytes == bases.nbytes
    answers = [ask(model, question, read(model, ids, PiKVCache(one, one))) for one in (bases, again)]
    assert torch.equal(*answers)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not a complete bases file"):
        load_bases(path)
    with pytest.raises(FileNotFoundError, match="no bases file"):
        load_bases(tmp_path / "other")


def test_what_does_not_fit_is_refused(ids, model, texts, bases):
    with pytest.raises(ValueError, match="rank must be from 1 to 15"):
        calibrate_bases(model, Tokenizer(), texts, rank=16)
    other = make_tiny("llama", seed=1)
    with pytest.raises(ValueError, match="calibrated for another model"):
        read(other, ids, PiKVCache(bases, bases)).nbytes  # noqa: B018
    cache = read(model, ids, PiKVCache())
    deeper = calibrate_bases(make_tiny("qwen3"), Tokenizer(), texts, rank=4, **SETTINGS)
    with pytest.raises(ValueError, match="calibrate"):
        cache.pack(deeper, deeper)
        cache.nbytes  # noqa: B018
    assert models.attention_layers(model)[0].layer_idx == 0
