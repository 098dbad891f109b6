"""Every press on contexts with an image, on every architecture that reads them."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from kvpress import AdaKVPress, ComposedPress, ExpectedAttentionPress, KnormPress, SnapKVPress
from transformers import DynamicCache

from pikvpress import (
    FastVPress,
    MoERouterPress,
    PerLayerPress,
    PiKVCache,
    PiKVPress,
    ProbeAttentionPress,
    SaliencyPress,
    available_experts,
    images,
    models,
    next_positions,
    visual_positions,
)
from pikvpress.experts.expected_attention import StreamedExpectedAttentionPress
from pikvpress.saliency_features import num_features
from pikvpress.schedulers import SaliencyScheduler
from tests.helpers import kept_positions
from tests.vision import VISION, context, make_vision

ALONG_AXES = ("qwen2_5_vl", "qwen3_vl")
QUESTION = torch.tensor([[5, 9, 2, 7]])


def saliency(ratio):
    weights = torch.randn(2, 2, num_features(16), generator=torch.Generator().manual_seed(2))
    return SaliencyPress(ratio, weights=weights)


PRESSES = {
    "moe_router": lambda: MoERouterPress(0.5, gates=None),
    "every_expert": lambda: MoERouterPress(0.5, gates=None, num_experts=len(available_experts()), top_k=4),
    "adakv_budgets": lambda: MoERouterPress(0.5, gates=None, budgets="adakv"),
    "refit": lambda: MoERouterPress(0.5, gates=None, refit=True),
    "probe_attention": lambda: ProbeAttentionPress(0.5),
    "saliency": lambda: saliency(0.5),
    "knorm": lambda: KnormPress(0.5),
    "snapkv": lambda: SnapKVPress(0.5, window_size=16),
    "composed": lambda: ComposedPress([KnormPress(0.25), MoERouterPress(1 / 3, gates=None)]),
}


@torch.no_grad()
def read(model, inputs, cache, press=None):
    """Return the logits of four tokens after a context."""
    with press(model) if press is not None else nullcontext():
        model(**inputs, past_key_values=cache)
    batch, length = inputs["input_ids"].shape
    positions = next_positions(model, length, 4)
    return model(input_ids=QUESTION.expand(batch, -1), position_ids=positions, past_key_values=cache).logits


def lengths(cache):
    return [layer.get_seq_length() for layer in cache.layers]


@pytest.mark.parametrize("name", VISION)
def test_without_a_press_a_pikv_cache_is_a_dynamic_one_to_the_bit(name):
    model, inputs = make_vision(name), context(name, batch=2)
    expected, found = (read(model, inputs, cache) for cache in (DynamicCache(), PiKVCache()))
    assert torch.equal(found, expected)
    texts = [
        model.generate(**inputs, past_key_values=cache, max_new_tokens=5, do_sample=False)
        for cache in (DynamicCache(), PiKVCache())
    ]
    assert torch.equal(*texts)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("press", PRESSES)
@pytest.mark.parametrize("name", VISION)
def test_bytes_fall_and_the_rest_is_read_as_the_model_would(name, press, attention):
    """In both kinds of caches alike, in one of which some presses only mask what they remove."""
    model, inputs = make_vision(name, attn_implementation=attention), context(name)
    length = inputs["input_ids"].shape[1]
    caches = DynamicCache(), PiKVCache()
    expected, found = (read(model, inputs, cache, PRESSES[press]()) for cache in caches)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    row = 2 * 2 * 16 * 4  # bytes of keys and values of a token in both heads
    for module, layer in zip(models.attention_layers(model), caches[1].layers, strict=True):
        if models.is_sliding(module):
            assert layer.counts() == [[length + 4] * 2]
        else:
            assert sum(layer.counts()[0]) == 2 * (length // 2 + 4)
            assert layer.nbytes == row * (length // 2 + 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", VISION)
def test_half_precision_and_bytes(name, dtype):
    model, inputs = make_vision(name, dtype=dtype), context(name)
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    length = inputs["input_ids"].shape[1]
    sizes = []
    for press in (None, MoERouterPress(0.5, gates=None), PiKVPress(0.75, gates=None)):
        cache = PiKVCache()
        with press(model) if press is not None else nullcontext():
            output = model.generate(**inputs, past_key_values=cache, max_new_tokens=3, do_sample=False)
        assert output.shape == (1, length + 3)
        sizes.append(cache.nbytes)
        if press is not None:
            stats = press.get_stats()
            assert stats["bytes_after"] <= (1 - press.compression_ratio) * stats["bytes_before"]
            compressed = [
                index for index, one in enumerate(models.attention_layers(model)) if not models.is_sliding(one)
            ]
            assert [layer.layer for layer in press.plan.layers] == compressed
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("name", VISION)
def test_wrappers_and_single_layers(name):
    model, inputs = make_vision(name), context(name)
    length = inputs["input_ids"].shape[1]
    for press in (AdaKVPress(MoERouterPress(0.5, gates=None)), PerLayerPress({1: KnormPress(0.5)})):
        cache = PiKVCache()
        read(model, inputs, cache, press)
        assert sum(cache.layers[1].counts()[0]) == 2 * (length // 2 + 4)


@torch.no_grad()
@pytest.mark.parametrize("name", ALONG_AXES)
def test_expected_attention_expects_queries_at_the_positions_they_will_have(name, monkeypatch):
    """Ours as kvpress's, and another one than with positions that count tokens of images one by one."""
    model, inputs = make_vision(name), context(name)
    scores = {"ours": [], "theirs": []}

    class Ours(StreamedExpectedAttentionPress):
        def score(self, *args):
            scores["ours"].append(super().score(*args))
            return scores["ours"][-1]

    class Theirs(ExpectedAttentionPress):
        def score(self, *args):
            scores["theirs"].append(super().score(*args))
            return scores["theirs"][-1]

    settings = {"n_future_positions": 8, "compression_ratio": 0.5}
    presses = [Ours(**settings), MoERouterPress(0.5, gates=None, experts=[Ours(**settings)])]
    presses += [Theirs(**settings)] * (name == "qwen2_5_vl")  # kvpress leaves out the norms of Qwen3-VL
    for press in presses:
        with press(model):
            model(**inputs, past_key_values=DynamicCache())
    alone, routed = scores["ours"][:2], scores["ours"][2:]
    torch.testing.assert_close(alone, routed)
    torch.testing.assert_close(scores["theirs"] or alone, alone)
    monkeypatch.setattr(images, "_follow", lambda rotary, kwargs: None)
    with Ours(**settings)(model):
        model(**inputs, past_key_values=DynamicCache())
    assert not torch.allclose(scores["ours"][4], alone[0])


@pytest.mark.parametrize("name", VISION)
def test_fastv_drops_only_tokens_of_images(name):
    if name == "gemma3":
        pytest.skip("the only layer before others has a sliding window")
    model, inputs = make_vision(name), context(name, batch=2)
    full, cache = DynamicCache(), DynamicCache()
    read(model, inputs, full)
    read(model, inputs, cache, FastVPress(0.75, layer=0))
    visual = visual_positions(model, inputs["input_ids"])
    pieces, length = int(visual[0].sum()), visual.shape[1]
    assert lengths(cache) == [length + 4, length - pieces + pieces // 4 + 4]
    for row in range(2):
        ours, theirs = cache.layers[1].keys[row : row + 1], full.layers[1].keys[row : row + 1]
        kept = kept_positions(ours[:, :, :-4], theirs[:, :, :-4])[0, 0]
        assert torch.isin((~visual[row]).nonzero()[:, 0], kept).all()
    some = DynamicCache()
    read(model, inputs, some, FastVPress(0.5, layer=0, positions=(0, 10)))
    assert lengths(some) == [length + 4, length - 5 + 4]


def padded(name, batch):
    """Return two contexts of different lengths, padded on the left, and each alone."""
    alone = [context(name, before=before, seed=before) for before in (20, 12)]
    width = alone[0]["input_ids"].shape[1]
    rows = []
    for inputs in alone:
        missing = width - inputs["input_ids"].shape[1]
        pad = {key: torch.nn.functional.pad(inputs[key], (missing, 0)) for key in ("input_ids", "attention_mask")}
        rows.append(inputs | pad)
    return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}, alone


@pytest.mark.parametrize("name", [*ALONG_AXES, "smolvlm"])
@pytest.mark.parametrize("press", ["moe_router", "every_expert", "saliency", "probe_attention"])
def test_rows_of_a_padded_batch_are_compressed_as_if_alone(name, press):
    model = make_vision(name)
    together, alone = padded(name, 2)
    cache = PiKVCache()
    with torch.no_grad(), PRESSES[press]()(model):
        model(**together, past_key_values=cache)
    cache.settle()
    for row, inputs in enumerate(alone):
        single = PiKVCache()
        with torch.no_grad(), PRESSES[press]()(model):
            model(**inputs, past_key_values=single)
        single.settle()
        for layer, expected in zip(cache.layers, single.layers, strict=True):
            assert layer.counts()[row] == expected.counts()[0]


@torch.no_grad()
@pytest.mark.parametrize("name", ALONG_AXES)
def test_saliency_sees_the_keys_of_each_row_before_rotation(name):
    model = make_vision(name)
    rows = [context(name, before=before, after=60 - before, seed=before) for before in (20, 30)]
    together = {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
    cache = DynamicCache()
    with saliency(0.5)(model):
        model(**together, past_key_values=cache)
    for row, inputs in enumerate(rows):
        alone = DynamicCache()
        with saliency(0.5)(model):
            model(**inputs, past_key_values=alone)
        torch.testing.assert_close(cache.layers[0].values[row], alone.layers[0].values[0])


@torch.no_grad()
def test_schedulers_that_undo_rotations_are_refused_where_they_are_along_axes():
    model, inputs = make_vision("qwen2_5_vl"), context("qwen2_5_vl", after=400)
    weights = torch.zeros(2, 2, num_features(16))
    with pytest.raises(ValueError, match="rotations along three axes"):
        model(**inputs, past_key_values=PiKVCache(scheduler=SaliencyScheduler(weights=weights), max_tokens=256))
    cache = PiKVCache(scheduler="h2o", max_tokens=256)
    model(**inputs, past_key_values=cache)
    assert max(max(row) for layer in cache.layers for row in layer.counts()) <= 256
