"""What is known of images in a context, and at which positions text goes on after it."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from pikvpress import PiKVCache, images, models, next_positions, visual_positions
from tests.vision import IMAGE, VIDEO, VISION, context, make_vision

ALONG_AXES = ("qwen2_5_vl", "qwen3_vl")
QUESTION = torch.tensor([[5, 9, 2, 7]])


@pytest.mark.parametrize("name", VISION)
def test_tokens_of_images_are_found_by_the_configuration(name):
    model, inputs = make_vision(name), context(name)
    found = visual_positions(model, inputs["input_ids"])
    assert torch.equal(found, inputs["input_ids"] == IMAGE)
    assert found.sum() >= 64
    video = torch.tensor([[1, VIDEO, 2]])
    knows_videos = "video_token_id" in VISION[name] or "video_token_index" in VISION[name]
    assert visual_positions(model, video).tolist() == [[False, knows_videos, False]]


def test_models_of_text_have_none(llama, ids):
    assert images.visual_ids(llama) == ()
    assert not visual_positions(llama, ids).any()


@pytest.mark.parametrize("tokens", [torch.tensor([1, 2]), torch.ones(1, 3)])
def test_what_is_not_token_ids_is_refused(llama, tokens):
    with pytest.raises(ValueError, match=r"input_ids must be integers of shape \(batch, tokens\)"):
        visual_positions(llama, tokens)


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", VISION)
def test_text_goes_on_where_it_would_if_read_at_once(name, batch):
    model, inputs = make_vision(name), context(name, batch)
    length, question = inputs["input_ids"].shape[1], QUESTION.expand(batch, -1)
    ids = torch.cat([inputs["input_ids"], question], dim=1)
    whole = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "token_type_ids" in inputs:
        whole["token_type_ids"] = (ids == IMAGE).long()
    expected = model(**whole, use_cache=False).logits[:, length:]
    cache = PiKVCache()
    model(**inputs, past_key_values=cache)
    positions = next_positions(model, length, 4)
    found = model(input_ids=question, position_ids=positions, past_key_values=cache).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (positions[0, 0] < length) == (name in ALONG_AXES)


@torch.no_grad()
@pytest.mark.parametrize("how", ["forward", "generate"])
@pytest.mark.parametrize("name", ALONG_AXES)
def test_scorers_are_given_the_rotations_of_the_model(name, how):
    """Queries as the model rotates them, and those of a question after the context at the positions it will have."""
    model, inputs = make_vision(name), context(name)
    length = inputs["input_ids"].shape[1]
    layers, turns, asked = models.attention_layers(model), [], []

    def remember(module, args, kwargs, output):
        places = torch.arange(length, length + 4)[None]
        after = models.rotary_embedding(module, kwargs["hidden_states"], places)
        turns.append((kwargs["position_embeddings"], after, kwargs[images.VISUAL]))

    with images.images_watched(model):
        with models.hooked([layer.register_forward_hook(remember, with_kwargs=True) for layer in layers]):
            cache = DynamicCache()
            if how == "forward":
                model(**inputs, past_key_values=cache)
            else:
                model.generate(**inputs, past_key_values=cache, max_new_tokens=1)
        for layer in layers:
            layer.register_forward_hook(
                lambda module, args, kwargs, output: asked.append(kwargs["position_embeddings"]), with_kwargs=True
            )
        question = {"input_ids": QUESTION, "position_ids": next_positions(model, length, 4)}
        model(**question, past_key_values=cache)
    for given, after, visual in turns:
        assert given[0].shape == (1, length, 16)
        assert torch.equal(visual, inputs["input_ids"] == IMAGE)
        for ours, theirs in zip(after, asked[0], strict=True):
            torch.testing.assert_close(ours, theirs)
    assert len(turns) == len(layers) == 2
