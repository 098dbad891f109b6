"""Padded batches: each row is compressed as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import pytest
import torch
from kvpress import AdaKVPress, ComposedPress, KnormPress
from transformers import DynamicCache

from pikvpress import MoERouterPress, PerLayerPress, PiKVCache, PiKVPress, SaliencyPress, models
from pikvpress.gates import save_gates
from pikvpress.presses.router_press import RouterPress
from pikvpress.saliency_features import num_features
from tests.conftest import VOCABULARY, make_tiny
from tests.helpers import uneven_gates

LENGTHS = (150, 97, 230, 131)  # of the rows, in tokens
LONGEST = max(LENGTHS)
NEW = 3


def contexts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(1, VOCABULARY, (1, length + NEW), generator=generator) for length in LENGTHS]


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the contexts in one batch, and its mask."""
    ids, mask = torch.zeros(2, len(LENGTHS), LONGEST, dtype=torch.long)
    for row, context in enumerate(contexts()):
        length = LENGTHS[row]
        places = slice(LONGEST - length, LONGEST) if side == "left" else slice(0, length)
        ids[row, places], mask[row, places] = context[0, :length], 1
    return ids, mask


@contextmanager
def recorded_masks() -> Iterator[list[torch.Tensor]]:
    """Record what every layer keeps, in the order in which layers are compressed."""
    found: list[torch.Tensor] = []
    original = RouterPress._decide

    def decide(self, *args):
        decisions = original(self, *args)
        found.extend(decision.mask().clone() for decision in decisions)
        return decisions

    with patch.object(RouterPress, "_decide", decide):
        yield found


def read(model, press, cache, ids, mask, new, positions=None):
    """Return the logits of new tokens after a compressed context, and what its layers kept."""
    context = {} if positions is None else {"position_ids": positions[:, : ids.shape[1]]}
    with torch.no_grad(), recorded_masks() as kept:
        with press(model) if press is not None else nullcontext():
            model(ids, attention_mask=mask, past_key_values=cache, **context)
        later = {} if positions is None else {"position_ids": positions[:, ids.shape[1] :]}
        if mask is not None:
            later["attention_mask"] = torch.cat([mask, torch.ones(len(ids), NEW, dtype=mask.dtype)], dim=1)
        return model(new, past_key_values=cache, **later).logits, kept


def compared(model, press, make_cache, side="left", with_positions=True, tolerance=1e-5):
    """Compress the padded batch and each row alone, compare, and return the cache of the batch."""
    ids, mask = padded(side)
    whole = torch.cat([mask, torch.ones(len(ids), NEW, dtype=mask.dtype)], dim=1)
    positions = (whole.cumsum(dim=1) - 1).clamp_min(0) if with_positions else None
    new = torch.cat([context[:, -NEW:] for context in contexts()])
    cache = make_cache()
    logits, kept = read(model, press, cache, ids, mask, new, positions)
    for row, context in enumerate(contexts()):
        length = LENGTHS[row]
        places = torch.arange(length + NEW)[None]
        alone, of_row = read(model, press, make_cache(), context[:, :length], None, context[:, length:], places)
        assert (logits[row] - alone[0]).abs().max() < tolerance, row
        assert len(kept) == len(of_row)
        for mask_of_batch, mask_of_row in zip(kept, of_row, strict=True):
            assert torch.equal(mask_of_batch[row][:, mask[row].bool()], mask_of_row[0])
            assert not mask_of_batch[row][:, ~mask[row].bool()].any()
    return cache


@pytest.fixture(scope="module")
def with_gates(tmp_path_factory):
    """Return a tiny model and the path of gates for it."""
    model = make_tiny("llama")
    path = tmp_path_factory.mktemp("gates") / "tiny.safetensors"
    save_gates(path, uneven_gates(model))
    return model, path


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make_cache", [DynamicCache, PiKVCache])
@pytest.mark.parametrize(("side", "with_positions"), [("left", True), ("left", False), ("right", True)])
def test_rows_are_compressed_as_if_alone(side, with_positions, make_cache, attention):
    model = make_tiny("llama", attn_implementation=attention)
    cache = compared(model, MoERouterPress(0.5), make_cache, side, with_positions)
    if make_cache is PiKVCache:
        counts = [[length // 2 + NEW] * 2 for length in LENGTHS]
        assert [layer.counts() for layer in cache.layers] == [counts, counts]


@pytest.mark.parametrize("budgets", ["fitted", "adakv", "pyramid"])
@pytest.mark.parametrize("refit", [True, False])
def test_every_kind_of_budget_counts_the_tokens_of_a_row(budgets, refit, with_gates):
    model, path = with_gates
    press = MoERouterPress(0.5, gates=path, budgets=budgets, refit=refit)
    compared(model, press, PiKVCache)


@pytest.mark.parametrize(
    ("architecture", "with_positions"),
    [("phi3", True), ("gemma3", True), ("qwen3", False), ("glm4", False), ("smollm3", False)],
)
def test_other_architectures(architecture, with_positions):
    compared(make_tiny(architecture), MoERouterPress(0.5), PiKVCache, with_positions=with_positions)


@pytest.mark.parametrize("budgets", ["equal", "fitted"])
def test_bytes_are_spent_by_the_length_of_a_row(budgets, with_gates):
    model, path = with_gates
    press = PiKVPress(0.75, gates=path if budgets == "fitted" else None, budgets=budgets)
    # A number at the edge between two levels may be rounded either way, since sums over a batch differ in the last bit.
    cache = compared(model, press, PiKVCache, tolerance=1e-3)
    full = sum(LENGTHS) * 2 * 2 * 2 * 16 * 4  # layers, heads, keys and values, channels, bytes
    (stretch,) = cache.layers[0].entries.compressed.context
    assert sum(part.nbytes for layer in cache.layers for part in layer.entries.compressed.context) <= 0.25 * full
    assert len(stretch.codecs[0]) == len(LENGTHS) * 2
    names = press.plan.layers[0].codecs
    assert len(names) == 2 and all(isinstance(name, str) for pair in names for name in pair)


def test_rows_with_different_codecs_are_selected_and_packed_later():
    """At this ratio, the codecs that fit depend on the length."""
    model, press, cache = make_tiny("llama"), PiKVPress(0.72, gates=None), PiKVCache(window=0)
    ids, mask = padded("left")
    with torch.no_grad(), press(model):
        model(ids, attention_mask=mask, past_key_values=cache)
    (stretch,) = cache.layers[1].entries.compressed.context
    by_row = [stretch.codecs[0][2 * row : 2 * row + 2] for row in range(4)]
    cache.batch_select_indices(torch.tensor([3, 0]))
    (stretch,) = cache.layers[1].entries.compressed.context
    assert [stretch.codecs[0][:2], stretch.codecs[0][2:]] == [by_row[3], by_row[0]]
    mask = mask[[3, 0]]
    new = torch.randint(1, VOCABULARY, (2, 70), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        mask = torch.cat([mask, torch.ones_like(new)], dim=1)
        model(new, attention_mask=mask, past_key_values=cache)
    decoded = cache.layers[1].entries.compressed.decoded
    assert decoded is not None and decoded.codecs[0][:2] == tuple(codec.following for codec in by_row[3])


def test_generate_and_stats():
    model, press = make_tiny("llama"), MoERouterPress(0.5)
    ids, mask = padded("left")
    cache = PiKVCache()
    with press(model):
        output = model.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=4, do_sample=False)
    for row, context in enumerate(contexts()):
        with press(model):
            alone = model.generate(
                context[:, : LENGTHS[row]], past_key_values=PiKVCache(), max_new_tokens=4, do_sample=False
            )
        assert torch.equal(output[row, LONGEST:], alone[0, LENGTHS[row] :])
    with press(model), torch.no_grad():
        model(ids, attention_mask=mask, past_key_values=PiKVCache())
    stats = press.get_stats()
    assert stats["layer_stats"][0]["num_keys"] == sum(LENGTHS) // 4
    assert stats["layer_stats"][0]["tokens_asked"] == round(sum(length // 2 for length in LENGTHS) / 4)
    assert stats["bytes_after"] < 0.5 * stats["bytes_before"]
    assert len(press.plan.layers[0].weights) == len(LENGTHS)


@pytest.mark.parametrize("make_cache", [DynamicCache, PiKVCache])
@pytest.mark.parametrize("side", ["left", "right"])
def test_saliency_alone(side, make_cache):
    model = make_tiny("llama")
    weights = torch.randn(2, 2, num_features(16), generator=torch.Generator().manual_seed(4))
    compared(model, SaliencyPress(0.5, weights=weights), make_cache, side)


def test_one_press_for_each_layer():
    press = PerLayerPress({0: MoERouterPress(0.5, gates=None, experts=["keydiff"])}, default=MoERouterPress(0.3))
    compared(make_tiny("llama"), press, PiKVCache)


@pytest.mark.parametrize(
    ("press", "message"),
    [
        (AdaKVPress(MoERouterPress(0.5)), "the batch is padded"),
        (ComposedPress([MoERouterPress(0.5), KnormPress(0.5)]), "the batch is padded"),
        (MoERouterPress(0.5, budgets="global", gates=None), "global budgets are decided for all rows at once"),
        (MoERouterPress(0.5, decoding="h2o", gates=None), "the batch is padded"),
    ],
)
def test_what_treats_rows_alike_is_refused(press, message):
    model, cache = make_tiny("llama"), PiKVCache()
    ids, mask = padded("left")
    with torch.no_grad(), pytest.raises(ValueError, match=message), press(model):
        model(ids, attention_mask=mask, past_key_values=cache)
    assert not any(layer.self_attn._forward_hooks for layer in models.language_model(model).layers)


def test_rows_too_short_for_the_experts_are_refused_before_any_layer():
    model, (ids, mask) = make_tiny("llama"), padded("left")
    mask[1, :-3] = 0
    press = MoERouterPress(0.5, experts=["snapkv"])
    with press(model), torch.no_grad(), pytest.raises(ValueError, match="the context has 3 tokens"):
        model(ids, attention_mask=mask, past_key_values=PiKVCache())
