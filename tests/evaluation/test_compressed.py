"""On a shared prefill, a press leaves what it leaves on its own prefill, in any cache."""

from __future__ import annotations

import pytest
import torch
from kvpress import KeyRerotationPress, KnormPress
from kvpress.utils import extract_keys_and_values
from transformers import DynamicCache

from evaluation.answering import log_probabilities
from evaluation.compressors import PrefilledContext, SharedPrefill
from evaluation.presses import PRESSES, parse_press
from evaluation.presses.entry import BYTES, TOKENS
from evaluation.quantized import bytes_of
from pikvpress import PiKVCache, PiKVPress, models
from pikvpress.memory import cache_bytes
from tests.evaluation.alone import alone, assert_same

# These download weights or texts from a hub. Ablations are gates of the real model.
FROM_A_HUB = ("duo_attention", "fastkvzip", "kvzap", "lukv", "qfilter", "RestoreKV")
NEEDS = {
    "fastv": "@layer=0",
    "per_layer": "@presses={0: knorm, 1: keydiff}",
    "snap_think": "@key_channel_compression_ratio=0.25",
}
OFFLINE = [name for name in sorted(PRESSES) if not any(part in name for part in (*FROM_A_HUB, "ablation"))]
AFTER_ATTENTION = [name for name in OFFLINE if isinstance(PRESSES[name].strategy, SharedPrefill)]
# Codecs alone have their own tests, since they do not leave the model's keys and values.
SHARING = [name for name in AFTER_ATTENTION if PRESSES[name].ratio_of is not BYTES and name != "packed"]
MASKING = [name for name in OFFLINE if PRESSES[name].strategy.masks and PRESSES[name].ratio_of is TOKENS]


@pytest.fixture(scope="module")
def shared(source):
    return source.prefilled


@pytest.mark.parametrize("name", SHARING)
def test_sharing_changes_nothing(name, tiny, random_context, shared, named):
    spec = parse_press(name + NEEDS.get(name, ""))
    torch.manual_seed(3)
    theirs, their_masks = alone(tiny, random_context, spec.make(0.5))
    torch.manual_seed(3)
    ours = shared.compress(spec.make(0.5))
    assert_same(ours, theirs, their_masks)
    assert ours.is_masked == (spec.strategy.masks and name != "think")
    assert ours.bytes_held == sum(keys.nbytes + values.nbytes for keys, values in theirs)
    if spec.entry.ratio_of is TOKENS:
        assert ours.tokens_kept == pytest.approx(150, abs=11)  # chunked presses keep whole chunks


def test_every_press_after_attention_is_compared():
    others = {name for name in OFFLINE if name.startswith(("quantized_", "hqq_", "nexusquant", "turboquant_"))}
    assert set(AFTER_ATTENTION) - set(SHARING) == {"pikv", "packed", *others}


def test_rotated_keys_move_the_positions_that_follow(tiny, random_context):
    assert PrefilledContext(tiny, random_context).compress(KeyRerotationPress(KnormPress(0.5))).next_position == 150


@torch.no_grad()
def test_a_packed_cache_is_read_as_its_own_attention_reads_it(tiny, random_context):
    """Unpacked into rectangles with masked padding, it gives the cache's own predictions and bytes."""
    shared = PrefilledContext(tiny, random_context)
    found = shared.compress(PiKVPress(0.9))
    cache, question = PiKVCache(), list(range(100, 110))
    with PiKVPress(0.9)(tiny):
        tiny.model(input_ids=torch.tensor([random_context]), past_key_values=cache)
    assert found.bytes_held == cache.nbytes < 0.1 * shared.compress(None).bytes_held
    assert not found.is_masked and found.tokens_kept < len(random_context)
    position = torch.arange(len(random_context), len(random_context) + 10)[None]
    logits = tiny(input_ids=torch.tensor([question]), past_key_values=cache, position_ids=position).logits[0]
    (ours,) = log_probabilities(tiny, [found], question)
    torch.testing.assert_close(ours, logits.log_softmax(dim=-1), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["quantized_snapkv", "quantized_keydiff@bits=2", "quantized_moe_router"])
def test_a_press_over_a_quantised_cache_is_that_of_kvpress(name, tiny, random_context, shared):
    press = parse_press(name).make(0.95)
    ours = shared.compress(press)
    cache = press.cache(tiny)
    with press.press(tiny):
        tiny.model(input_ids=torch.tensor([random_context]), past_key_values=cache)
    for index, (keys, values) in enumerate(ours.layers):
        their_keys, their_values = extract_keys_and_values(cache, index)
        torch.testing.assert_close(keys, their_keys)
        torch.testing.assert_close(values, their_values)
    assert ours.bytes_held == bytes_of(cache) == pytest.approx(0.05 * shared.compress(None).bytes_held, rel=0.02)


def test_a_quantised_cache_keeps_every_token_that_fits(random_context, shared):
    ours = shared.compress(parse_press("quantized_snapkv").make(0.8))
    assert ours.tokens_kept == len(random_context) and ours.bytes_held < 0.2 * shared.compress(None).bytes_held
    with pytest.raises(ValueError, match="bits must be 2 or 4"):
        parse_press("quantized_snapkv@bits=3")


@torch.no_grad()
@pytest.mark.parametrize("name", MASKING)
def test_what_is_masked_is_gone_from_a_pikv_cache(name, tiny, random_context, named):
    """Every press that masks and needs nothing from a hub gives the same predictions with fewer bytes."""
    press = parse_press(name).make(0.6)
    position = torch.arange(len(random_context), len(random_context) + 10)[None]
    question, predicted, held = torch.arange(100, 110)[None], [], []
    for cache in (DynamicCache(), PiKVCache()):
        torch.manual_seed(0)
        with press(tiny):
            tiny.model(input_ids=torch.tensor([random_context]), past_key_values=cache)
        held.append(cache_bytes(cache) if isinstance(cache, DynamicCache) else cache.nbytes)
        predicted.append(tiny(input_ids=question, past_key_values=cache, position_ids=position).logits)
        for layer in models.attention_layers(tiny):
            layer.masked_key_indices = None
    torch.testing.assert_close(predicted[1], predicted[0], atol=1e-4, rtol=1e-4)
    assert held[1] < (0.75 if name != "kvcompose_unstructured" else 0.8) * held[0]  # it keeps what it has read twice
