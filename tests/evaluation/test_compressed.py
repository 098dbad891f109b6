"""A shared prefill gives every press what a prefill of its own would have given it."""

from __future__ import annotations

import pytest
import torch
from kvpress.utils import extract_keys_and_values
from transformers import AutoTokenizer, DynamicCache

from evaluation import compressed
from evaluation.answering import log_probabilities
from evaluation.compressed import (
    Scores,
    SharedPrefill,
    compress_alone,
    compress_with_weights,
    prefill,
    tokenizer_by_name,
)
from evaluation.presses import FULL_CACHE, PRESSES, parse_press
from evaluation.quantized import bytes_of
from pikvpress import PiKVCache, PiKVPress, models
from pikvpress.experts.saliency import num_features
from pikvpress.gates import Gates, file_name, key, save_gates
from pikvpress.memory import cache_bytes
from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routers.feature_names import feature_names
from pikvpress.routing.examination import examine

# These fetch something trained, or texts, from a hub. Ablations are gates of the real model.
FROM_A_HUB = ("duo_attention", "fastkvzip", "kvzap", "lukv", "qfilter", "RestoreKV")
NEEDS = {
    "fastv": "@layer=0",
    "per_layer": "@presses={0: knorm, 1: keydiff}",
    "snap_think": "@key_channel_compression_ratio=0.25",
}
OFFLINE = [name for name in sorted(PRESSES) if not any(part in name for part in (*FROM_A_HUB, "ablation"))]
SHARING = [name for name in OFFLINE if PRESSES[name].shares and name != FULL_CACHE and PRESSES[name].unit != "bytes"]
MASKING = [name for name in OFFLINE if PRESSES[name].masks and PRESSES[name].unit == "tokens"]


@pytest.fixture(scope="module")
def context(tokenizer):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(100, 40000, (300,), generator=generator).tolist()


@pytest.fixture(scope="module")
def shared(tiny, context):
    return SharedPrefill(tiny, context)


@pytest.fixture
def named(tiny, tokenizer, tmp_path, monkeypatch):
    """Let presses find the tokenizer, and gates for fitted budgets."""
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path))
    experts, layers = ["keydiff", "knorm"], models.attention_layers(tiny)
    heads = models.num_key_value_heads(layers[0])
    router = ROUTERS["pikv"]([1.0, 1.0], feature_names(experts), len(layers), heads, RouterSettings(top_k=2))
    curves = torch.rand(1, len(layers), heads, 3, generator=torch.Generator().manual_seed(0)).sort(dim=-1).values
    model = models.fingerprint(layers[0])
    saliency = torch.randn(
        len(layers), heads, num_features(layers[0].head_dim), generator=torch.Generator().manual_seed(1)
    )
    routers = {key("pikv", "fitted"): router.state_dict()}
    gates = Gates(model, experts, routers, curves, (1.0, 0.5, 0.1), (0.5,), saliency=saliency)
    save_gates(tmp_path / file_name(model), gates)
    with tokenizer_by_name(tiny, tokenizer):
        yield


def alone(model, context, press):
    """Return what a press leaves when it is used as kvpress means it to be."""
    cache = DynamicCache()
    layers = models.attention_layers(model)
    with torch.no_grad(), press(model):
        model.model(input_ids=torch.tensor([context]), past_key_values=cache)
    masked = [getattr(layer, "masked_key_indices", None) for layer in layers]
    for layer in layers:
        layer.masked_key_indices = None
    return [extract_keys_and_values(cache, i) for i in range(len(cache))], masked


def entries(masked):
    return set() if masked is None else set(zip(*(part.tolist() for part in masked), strict=True))


@pytest.mark.parametrize("name", SHARING)
def test_sharing_changes_nothing(name, tiny, context, shared, named):
    spec = parse_press(name + NEEDS.get(name, ""))
    torch.manual_seed(3)
    theirs, their_masks = alone(tiny, context, spec.make(0.5))
    torch.manual_seed(3)
    ours = shared.compress(spec.make(0.5))
    for (keys, values), (their_keys, their_values) in zip(ours.layers, theirs, strict=True):
        torch.testing.assert_close(keys, their_keys)
        torch.testing.assert_close(values, their_values)
    assert [entries(m) for m in ours.masked] == [entries(m) for m in their_masks]
    assert ours.is_masked == (spec.entry.masks and name != "think")
    assert ours.bytes_held == sum(keys.nbytes + values.nbytes for keys, values in theirs)
    if spec.entry.unit == "tokens":
        assert ours.tokens_kept == pytest.approx(150, abs=11)  # chunked presses keep whole chunks


@pytest.mark.parametrize("name", [name for name in SHARING if PRESSES[name].scores_once])
def test_scores_of_one_ratio_serve_the_others(name, tiny, context, shared, named):
    scores, spec = Scores(), parse_press(name)
    for ratio in (0.75, 0.25):
        once, anew = shared.compress(spec.make(ratio), scores), shared.compress(spec.make(ratio))
        for (keys, values), (their_keys, their_values) in zip(once.layers, anew.layers, strict=True):
            assert torch.equal(keys, their_keys) and torch.equal(values, their_values)
        assert [entries(m) for m in once.masked] == [entries(m) for m in anew.masked]
        assert once.tokens_kept == pytest.approx(300 * (1 - ratio), abs=1)
        assert (scores.seconds_saved > 0) == (ratio == 0.25)


def test_a_press_writes_into_no_other_press_s_keys(tiny, context, shared):
    before = shared.compress(None)
    shared.compress(parse_press("think").make(0.5))
    after = shared.compress(None)
    for (keys, _), (keys_after, _) in zip(before.layers, after.layers, strict=True):
        assert torch.equal(keys, keys_after)
    assert before.tokens_kept == 300 and before.lengths == (300, 300) and not before.is_masked
    assert before.next_position == 300


def test_the_model_is_left_as_it_was(tiny, context):
    layers = models.attention_layers(tiny)
    for layer in layers:
        if hasattr(layer, "rotary_emb"):
            del layer.rotary_emb
    SharedPrefill(tiny, context).compress(parse_press("adakv_knorm").make(0.5))
    assert not any(hasattr(layer, "rotary_emb") for layer in layers)
    assert all(layer.masked_key_indices is None for layer in layers)
    assert not any(layer._forward_hooks for layer in layers)


@pytest.mark.parametrize("name", ["kvzip", "kvzip_plus", "kvgrad", "kvcompose"])
def test_scoring_once_serves_every_ratio(name, tiny, context, named):
    spec, ratios = parse_press(name), (0.25, 0.75)
    together = compress_alone(tiny, context, spec.make(ratios[0]), 0.0, ratios)
    for ratio, ours in zip(ratios, together, strict=True):
        theirs, their_masks = alone(tiny, context, spec.make(ratio))
        assert [entries(m) for m in ours.masked] == [entries(m) for m in their_masks]
        for (keys, values), (their_keys, their_values) in zip(ours.layers, theirs, strict=True):
            torch.testing.assert_close(keys, their_keys)
            torch.testing.assert_close(values, their_values)
        assert ours.tokens_kept == pytest.approx(300 * (1 - ratio), abs=1)
        assert ours.is_masked == spec.entry.masks


def test_one_eager_prefill_serves_every_press_that_reads_weights(tiny, context):
    makes = [parse_press("observed_attention").make(ratio) for ratio in (0.25, 0.75)]
    together = compress_with_weights(tiny, context, makes, 0.0)
    assert tiny.config._attn_implementation == "sdpa"
    for press, ours in zip(makes, together, strict=True):
        with models.attention_mode(tiny, "eager"):
            theirs, _ = alone(tiny, context, press)
        for (keys, _), (their_keys, _) in zip(ours.layers, theirs, strict=True):
            torch.testing.assert_close(keys, their_keys)


def test_rotated_keys_move_the_positions_that_follow(tiny, context):
    from kvpress import KeyRerotationPress, KnormPress

    assert SharedPrefill(tiny, context).compress(KeyRerotationPress(KnormPress(0.5))).next_position == 150


def test_the_tokenizer_is_found_by_the_model_s_name(tiny, tokenizer):
    before = AutoTokenizer.from_pretrained
    with tokenizer_by_name(tiny, tokenizer):
        assert AutoTokenizer.from_pretrained(tiny.config.name_or_path) is tokenizer
    assert AutoTokenizer.from_pretrained == before


def test_a_prefill_fills_the_cache(tiny, context):
    cache = DynamicCache()
    prefill(tiny, context, cache)
    assert cache.get_seq_length() == 300


def test_routers_with_the_same_experts_look_once(tiny, context, monkeypatch):
    looked = []

    def counted(experts, layer, ratio, measures):
        looked.append((layer.index, ratio))
        return examine(experts, layer, ratio, measures)

    monkeypatch.setattr(compressed, "examine", counted)
    prefilled = SharedPrefill(tiny, context)
    names = ["moe_router", "moe_router@router_type=eplb", "adakv_moe_router", "moe_router@experts=[keydiff, knorm]"]
    seconds = [prefilled.compress(parse_press(name).make(0.5)).seconds for name in names]
    assert looked == [(0, 0.5), (1, 0.5)] * 2
    assert min(seconds[:3]) > 0.3 * seconds[0]  # what was saved is counted as if it had been done
    prefilled.compress(parse_press("moe_router").make(0.75))
    assert looked[4:] == [(0, 0.75), (1, 0.75)]


@torch.no_grad()
def test_a_packed_cache_is_read_as_its_own_attention_reads_it(tiny, context):
    """Unpacked into rectangles, filling masked, it gives the predictions of the cache itself, and its bytes."""
    shared = SharedPrefill(tiny, context)
    found = shared.compress(PiKVPress(0.9))
    cache, question = PiKVCache(), list(range(100, 110))
    with PiKVPress(0.9)(tiny):
        tiny.model(input_ids=torch.tensor([context]), past_key_values=cache)
    assert found.bytes_held == cache.nbytes < 0.1 * shared.compress(None).bytes_held
    assert not found.is_masked and found.tokens_kept < len(context)
    position = torch.arange(len(context), len(context) + 10)[None]
    logits = tiny(input_ids=torch.tensor([question]), past_key_values=cache, position_ids=position).logits[0]
    (ours,) = log_probabilities(tiny, [found], question)
    torch.testing.assert_close(ours, logits.log_softmax(dim=-1), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["quantized_snapkv", "quantized_keydiff@bits=2", "quantized_moe_router"])
def test_a_press_over_a_quantised_cache_is_that_of_kvpress(name, tiny, context, shared):
    press = parse_press(name).make(0.95)
    ours = shared.compress(press)
    cache = press.cache(tiny)
    with press.press(tiny):
        tiny.model(input_ids=torch.tensor([context]), past_key_values=cache)
    for index, (keys, values) in enumerate(ours.layers):
        their_keys, their_values = extract_keys_and_values(cache, index)
        torch.testing.assert_close(keys, their_keys)
        torch.testing.assert_close(values, their_values)
    assert ours.bytes_held == bytes_of(cache) == pytest.approx(0.05 * shared.compress(None).bytes_held, rel=0.02)


def test_a_quantised_cache_keeps_every_token_that_fits(tiny, context, shared):
    ours = shared.compress(parse_press("quantized_snapkv").make(0.8))
    assert ours.tokens_kept == len(context) and ours.bytes_held < 0.2 * shared.compress(None).bytes_held
    with pytest.raises(ValueError, match="bits must be 2 or 4"):
        parse_press("quantized_snapkv@bits=3")


@torch.no_grad()
@pytest.mark.parametrize("name", MASKING)
def test_what_is_masked_is_gone_from_a_pikv_cache(name, tiny, context, named):
    """Every press that masks and needs nothing from a hub: the same predictions, without the bytes."""
    press = parse_press(name).make(0.6)
    position = torch.arange(len(context), len(context) + 10)[None]
    question, predicted, held = torch.arange(100, 110)[None], [], []
    for cache in (DynamicCache(), PiKVCache()):
        torch.manual_seed(0)
        with press(tiny):
            tiny.model(input_ids=torch.tensor([context]), past_key_values=cache)
        held.append(cache_bytes(cache) if isinstance(cache, DynamicCache) else cache.nbytes)
        predicted.append(tiny(input_ids=question, past_key_values=cache, position_ids=position).logits)
        for layer in models.attention_layers(tiny):
            layer.masked_key_indices = None
    torch.testing.assert_close(predicted[1], predicted[0], atol=1e-4, rtol=1e-4)
    assert held[1] < (0.75 if name != "kvcompose_unstructured" else 0.8) * held[0]  # that one leaves what it read twice
