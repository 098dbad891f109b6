"""PiKVPress keeps to the requested bytes, however they are spent."""

from __future__ import annotations

import pytest
import torch
from kvpress import ScorerPress
from transformers import DynamicCache

from pikvpress import PiKVCache, PiKVPress, models
from pikvpress.gates import file_name, save_gates
from tests.conftest import CONFIGS, make_tiny
from tests.helpers import PAIRS, uneven_gates

EXPERTS = ["keydiff", "knorm"]


@pytest.fixture
def ids():
    return torch.randint(1, 511, (1, 600), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def gates(llama, tmp_path, monkeypatch):
    """Gates by whose curves the first head of each layer needs many tokens, and the second many bits."""
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path))
    made = uneven_gates(llama, EXPERTS)
    save_gates(tmp_path / file_name(made.model), made)
    return made


@torch.no_grad()
def read(model, ids, press):
    cache = PiKVCache()
    with press(model):
        logits = model(input_ids=ids, past_key_values=cache).logits
    return cache, logits


def full_bytes(model, ids):
    return sum(2 * 2 * ids.numel() * layer.head_dim * 4 for layer in models.attention_layers(model))


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.875, 0.9375])
@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen3_moe"])
def test_the_bytes_asked_for_are_held(ratio, architecture, ids):
    model = make_tiny(architecture)
    press = PiKVPress(ratio)
    cache, _ = read(model, ids, press)
    asked = (1 - ratio) * full_bytes(model, ids)
    share = {0.5: 0.75, 0.75: 0.9}.get(ratio, 0.95)  # with only four heads, the budget cannot be spent to the last byte
    assert asked * share <= cache.nbytes <= asked
    stats = press.get_stats()
    assert stats["bytes_after"] == cache.nbytes and stats["bytes_before"] == full_bytes(model, ids)


def test_budgets_go_where_the_curves_say(llama, ids, gates):
    press = PiKVPress(0.75)
    cache, _ = read(llama, ids, press)
    assert cache.nbytes <= 0.25 * full_bytes(llama, ids)
    assert press.plan.fitted and press.plan.experts == EXPERTS
    for layer in press.plan.layers:
        first, second = layer.head_tokens
        assert first > 2 * second
        assert PAIRS.index(layer.codecs[0]) > PAIRS.index(layer.codecs[1])
        assert cache.layers[layer.layer].counts() == [layer.head_tokens]
    assert "int" in str(press.plan)


def test_equal_budgets_spend_bits_first(llama, ids):
    found = {}
    for ratio in (0.3, 0.91, 0.94):
        press = PiKVPress(ratio, budgets="equal")
        read(llama, ids, press)
        codecs = [pair for layer in press.plan.layers for pair in layer.codecs]
        (count,) = {count for layer in press.plan.layers for count in layer.head_tokens}
        found[ratio] = codecs, count
    assert found[0.3] == ([("exact", "exact")] * 2 + [("int8", "int8")] * 2, 600)
    assert found[0.91][0] == found[0.94][0] == [("rot3", "rot3")] * 4
    assert 600 > found[0.91][1] > found[0.94][1] > 0


@torch.no_grad()
def test_what_is_kept_is_what_the_router_keeps(llama, ids):
    """With everything kept in 8 bits, answers are nearly those of the full cache."""
    cache, first = read(llama, ids, PiKVPress(0.3))
    exact = DynamicCache()
    expected = llama(input_ids=ids, past_key_values=exact).logits
    torch.testing.assert_close(first, expected, atol=1e-5, rtol=1e-5)
    question = torch.arange(50, 60)[None]
    positions = torch.arange(600, 610)[None]
    ours = llama(input_ids=question, past_key_values=cache, position_ids=positions).logits
    theirs = llama(input_ids=question, past_key_values=exact, position_ids=positions).logits
    assert (ours - theirs).abs().max() < 0.05


def test_generate(llama, ids):
    cache = PiKVCache()
    with PiKVPress(0.75)(llama):
        out = llama.generate(ids, past_key_values=cache, max_new_tokens=10, min_new_tokens=10, do_sample=False)
    assert out.shape == (1, 610) and cache.get_seq_length() == 609


def test_a_batch_is_compressed_row_by_row(llama, ids):
    both = torch.cat([ids, ids.flip(1)])
    cache, _ = read(llama, both, PiKVPress(0.75))
    assert 0.9 * 0.25 * full_bytes(llama, both) <= cache.nbytes <= 0.25 * full_bytes(llama, both)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_architecture(architecture, ids):
    model = make_tiny(architecture)
    press = PiKVPress(0.8)
    cache, _ = read(model, ids, press)
    sliding = [models.is_sliding(layer) for layer in models.attention_layers(model)]
    assert [layer.entries.are_compressed for layer in cache.layers] == [not slides for slides in sliding]


def test_bad_input(llama, ids, gates):
    with (
        PiKVPress(0.5)(llama),
        pytest.raises(ValueError, match="a DynamicCache cannot hold: call the model with past_key"),
    ):
        llama(ids, past_key_values=DynamicCache())
    with pytest.raises(ValueError, match=r"leaves \d+ bytes per head, less than one token takes: 0\.\d+ is the"):
        read(llama, ids, PiKVPress(0.9995, budgets="equal"))
    with pytest.raises(ValueError, match="bytes is below the smallest possible"):
        read(llama, ids, PiKVPress(0.9995))
    with pytest.raises(ValueError, match="budgets must be one of 'auto', 'equal', 'fitted', got 'even'"):
        PiKVPress(0.5, budgets="even")
    assert not any(layer._forward_hooks for layer in models.attention_layers(llama))


def test_fitted_budgets_need_curves(llama, ids, tmp_path, monkeypatch):
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path))
    with pytest.raises(ValueError, match="needs gates that were fitted"):
        read(llama, ids, PiKVPress(0.5, budgets="fitted"))
    assert not isinstance(PiKVPress(0.5), ScorerPress)
