"""ImageBudgetPress: budgets of images and text apart, in exact counts."""

from __future__ import annotations

import pytest
import torch
from kvpress import AdaKVPress, ComposedPress, KnormPress, RandomPress, StreamingLLMPress
from kvpress.utils import compute_n_kept
from transformers import DynamicCache, StaticCache

from pikvpress import ImageBudgetPress, MoERouterPress, PerLayerPress, PiKVCache, PiKVPress, models, visual_positions
from tests.helpers import kept_positions, recorded_scores, top
from tests.vision import IMAGE, VISION, context, make_vision


@torch.no_grad()
def read(model, inputs, press=None, cache=None):
    cache = DynamicCache() if cache is None else cache
    if press is None:
        model(**inputs, past_key_values=cache)
        return cache
    with press(model):
        model(**inputs, past_key_values=cache)
    return cache


def compressed(model):
    return [index for index, layer in enumerate(models.attention_layers(model)) if not models.is_sliding(layer)]


@pytest.mark.parametrize("ratios", [(0.9, 0.25), (0.5, 0.0), (0.0, 0.5), (0.999, 0.1)])
@pytest.mark.parametrize("name", VISION)
def test_images_and_text_keep_their_own_shares(name, ratios):
    model, inputs = make_vision(name), context(name, batch=2)
    image, text = ratios
    visual = visual_positions(model, inputs["input_ids"])
    pieces, words = int(visual[0].sum()), int((~visual[0]).sum())
    full = read(model, inputs)
    with recorded_scores() as scores:
        cache = read(model, inputs, ImageBudgetPress(MoERouterPress(text, gates=None), image_compression_ratio=image))
    for index in compressed(model):
        kept = kept_positions(cache.layers[index].keys, full.layers[index].keys)
        assert torch.equal(kept, kept.sort(dim=-1).values)
        wanted = compute_n_kept(pieces, image), compute_n_kept(words, text)
        assert kept.shape == (2, 2, sum(wanted))
        of_images = visual[0][kept]
        assert (of_images.sum(dim=-1) == wanted[0]).all()
        for part, count in zip((visual[0], ~visual[0]), wanted, strict=True):
            best = top(scores[index][0].masked_fill(~part, -torch.inf), count)
            assert torch.equal(kept[part[kept]].view(2, 2, -1), best)


def test_a_context_without_images_is_one_of_text():
    model, inputs = make_vision("qwen3_vl"), {"input_ids": torch.arange(1, 101)[None]}
    for press in (KnormPress(0.5), MoERouterPress(0.5, gates=None)):
        caches = read(model, inputs, press), read(model, inputs, ImageBudgetPress(press, image_compression_ratio=0.9))
        for index, layer in enumerate(read(model, inputs).layers):
            kept = [kept_positions(cache.layers[index].keys, layer.keys).sort(dim=-1).values for cache in caches]
            assert kept[0].shape[2] == 50 and torch.equal(*kept)


def test_the_press_is_asked_at_the_ratio_of_the_whole_context_and_keeps_its_own():
    model, inputs, seen = make_vision("smolvlm"), context("smolvlm"), []

    class Asked(StreamingLLMPress):
        def score(self, *args, **kwargs):
            seen.append(self.compression_ratio)
            return super().score(*args, **kwargs)

    press = ImageBudgetPress(Asked(0.25), image_compression_ratio=0.75)
    read(model, inputs, press)
    assert seen == [1 - (16 + 45) / 124] * 2
    assert press.compression_ratio == press.press.compression_ratio == 0.25
    press.compression_ratio = 0.5
    assert press.press.compression_ratio == 0.5


def test_bytes_fall_in_a_pikv_cache_and_generation_goes_on():
    model, inputs = make_vision("qwen2_5_vl"), context("qwen2_5_vl")
    sizes, outputs = [], []
    for cache in (PiKVCache(), DynamicCache()):
        with ImageBudgetPress(MoERouterPress(0.25, gates=None), image_compression_ratio=0.9)(model):
            outputs.append(model.generate(**inputs, past_key_values=cache, max_new_tokens=4, do_sample=False))
        sizes.append([layer.get_seq_length() for layer in cache.layers])
    assert sizes[0] == sizes[1] == [6 + 45 + 3] * 2
    assert torch.equal(*outputs)


def test_nothing_to_remove_leaves_everything():
    model, inputs = make_vision("smolvlm"), context("smolvlm")
    cache = read(model, inputs, ImageBudgetPress(RandomPress(0.0), image_compression_ratio=0.0))
    assert cache.get_seq_length() == 124


def test_it_works_in_single_layers_and_before_other_presses():
    model, inputs = make_vision("smolvlm"), context("smolvlm")
    cache = read(model, inputs, PerLayerPress({1: ImageBudgetPress(KnormPress(0.0), image_compression_ratio=0.5)}))
    assert [layer.keys.shape[2] for layer in cache.layers] == [124, 92]
    both = ComposedPress([ImageBudgetPress(KnormPress(0.0), image_compression_ratio=0.5), KnormPress(0.5)])
    assert read(model, inputs, both).get_seq_length() == 46


@pytest.mark.parametrize("ratio", [1.0, -0.1])
def test_ratios_out_of_range_are_refused(ratio):
    with pytest.raises(ValueError, match="image_compression_ratio is the share of tokens to remove"):
        ImageBudgetPress(KnormPress(0.5), image_compression_ratio=ratio)
    press = ImageBudgetPress(KnormPress(0.5), image_compression_ratio=0.5)
    with pytest.raises(ValueError, match="compression_ratio is the share"):
        press.compression_ratio = ratio


@pytest.mark.parametrize("press", [PiKVPress(0.5), AdaKVPress(KnormPress(0.5)), "knorm"])
def test_other_presses_are_refused(press):
    with pytest.raises(TypeError, match="a press that scores entries, such as MoERouterPress or KnormPress"):
        ImageBudgetPress(press, image_compression_ratio=0.5)


def test_a_model_of_text_is_refused_before_it_runs(llama):
    press = ImageBudgetPress(KnormPress(0.5), image_compression_ratio=0.5)
    with pytest.raises(ValueError, match="use the KnormPress alone"), press(llama):
        pytest.fail("the model was touched")
    assert not any(layer.self_attn._forward_hooks for layer in llama.model.layers)


def different(inputs):
    ids = inputs["input_ids"].clone()
    ids[1][ids[1] == IMAGE] = 7
    return {"input_ids": ids}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model, inputs: {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}, "of embeddings"),
        (lambda model, inputs: different(inputs), "rows of the batch have 64, 0 tokens of images"),
        (lambda model, inputs: inputs | {"attention_mask": _padding(inputs)}, "the batch is padded"),
    ],
)
def test_contexts_that_cannot_be_divided_are_refused(change, message):
    model = make_vision("smolvlm")
    inputs = change(model, context("smolvlm", batch=2))
    if "pixel_values" in inputs and "rows" in message:
        inputs.pop("pixel_values")
    cache = DynamicCache()
    with pytest.raises(ValueError, match=message) as caught:
        read(model, inputs, ImageBudgetPress(KnormPress(0.5), image_compression_ratio=0.5), cache)
    assert "\n" not in str(caught.value) and cache.get_seq_length() == 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def _padding(inputs):
    mask = torch.ones_like(inputs["input_ids"])
    mask[1, :5] = 0
    return mask


def test_presses_that_remove_before_it_and_static_caches_are_refused():
    model, inputs = make_vision("smolvlm"), context("smolvlm")
    press = ImageBudgetPress(KnormPress(0.5), image_compression_ratio=0.5)
    with pytest.raises(ValueError, match="no other press may remove entries before"):
        read(model, inputs, ComposedPress([KnormPress(0.5), press]))
    with pytest.raises(ValueError, match="fixed number of entries"):
        read(model, inputs, press, StaticCache(models.language_model(model).config, max_cache_len=200))
