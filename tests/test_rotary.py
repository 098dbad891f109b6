"""How architectures rotate queries and keys."""

from __future__ import annotations

import pytest
import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from pikvpress import models, rotary
from pikvpress.calibration import calibrate
from tests.conftest import SIZES, make_tiny
from tests.vision import VISION, context, make_vision


@pytest.mark.parametrize("name", ["cohere2", "glm4", "gpt_oss", "llama4_text", "olmo2", "phi4", "smollm3"])
def test_scorers_are_given_the_rotation_of_the_model(name, ids):
    """Among them: no rotation in some layers, cosines for one half of a head, and for some of its channels only."""
    model, used, given = make_tiny(name, attn_implementation="eager"), {}, {}

    def capture(module, query, key, value, attention_mask, **kwargs):
        used[module.layer_idx] = (query.clone(), key.clone())
        return value.repeat_interleave(module.num_key_value_groups, dim=1).transpose(1, 2), None

    AttentionInterface.register("capture", capture)
    model.set_attn_implementation("capture")
    layers = [layer for layer in models.attention_layers(model) if not models.is_sliding(layer)]
    handles = [
        layer.register_forward_hook(
            lambda module, args, kwargs, output: given.update({module.layer_idx: kwargs}), with_kwargs=True
        )
        for layer in layers
    ]
    with models.hooked(handles), torch.no_grad():
        model(ids)
    with models.rotary_at_hand(model), torch.no_grad():
        for layer in layers:
            kwargs = rotary.rotation_of(layer, given[layer.layer_idx])
            hidden = kwargs["hidden_states"]
            before = models.queries_before_rotation(layer, hidden), models.keys_before_rotation(layer, hidden)
            for states, expected in zip(before, used[layer.layer_idx], strict=True):
                states, expected = rotary.in_halves(layer, states), rotary.in_halves(layer, expected)
                for turn in (kwargs["position_embeddings"], rotary.rotary_from(layer, states, 0)):
                    torch.testing.assert_close(rotary.rotate(states, *turn), expected)
    assert layers


def test_layers_without_positions_are_known():
    rotates = {
        name: [rotary.rotates(layer) for layer in models.attention_layers(make_tiny(name))]
        for name in ("llama", "smollm3", "cohere2", "llama4_text")
    }
    assert rotates.pop("llama") == [True, True]
    assert all(found == [True, False] for found in rotates.values())


def test_forms_are_found_by_the_functions_of_the_model():
    wanted = {"llama": "halves", "phi4": "halves", "gpt_oss": "once", "glm4": "neighbours", "cohere": "other"}
    forms = {name: rotary.form_of(models.attention_layers(make_tiny(name))[0]) for name in wanted}
    assert forms == wanted


def test_layers_without_position_embeddings_keep_their_arguments(llama):
    assert rotary.rotation_of(llama.model.layers[0].self_attn, {"use_cache": True}) == {"use_cache": True}


def test_a_model_that_pairs_neighbours_is_not_calibrated(tmp_path):
    with pytest.raises(ValueError, match="pairs neighbouring channels"):
        calibrate(make_tiny("glm4"), None, output=tmp_path / "gates.safetensors")


@pytest.mark.parametrize("kind", ["yarn", "llama3"])
def test_keys_are_moved_with_scaled_frequencies(kind):
    """yarn also scales attention: the scale is in the keys already."""
    more = {"llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0}}.get(kind, {})
    scaled = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128} | more
    config = AutoConfig.for_model("llama", **SIZES, rope_parameters=scaled)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    layer, keys = models.attention_layers(model)[0], torch.randn(1, 2, 40, 16)
    with models.rotary_at_hand(model):
        here, there = (rotary.rotate(keys, *rotary.rotary_from(layer, keys, first)) for first in (3, 500))
        torch.testing.assert_close(rotary.moved(layer, here, 497), there, atol=1e-4, rtol=1e-4)
        assert rotary.moved(layer, here.bfloat16(), 497).dtype == torch.bfloat16
    assert rotary.has_fixed_frequencies(model.model.rotary_emb)


def test_frequencies_that_depend_on_the_length_are_known():
    rotary_emb = make_tiny("llama").model.rotary_emb
    for kind, fixed in (("default", True), ("yarn", True), ("dynamic", False), ("longrope", False)):
        rotary_emb.rope_type = kind
        assert rotary.has_fixed_frequencies(rotary_emb) == fixed
    rotary_emb.rope_type = {"full_attention": "dynamic", "sliding_attention": "default"}
    assert not rotary.has_fixed_frequencies(rotary_emb)


@torch.no_grad()
@pytest.mark.parametrize("name", VISION)
def test_queries_and_keys_of_images_are_rotated_as_the_model_does(name):
    model, inputs, used, given = make_vision(name), context(name, batch=2), {}, {}

    def capture(module, query, key, value, attention_mask, **kwargs):
        used[module] = (query.clone(), key.clone())
        groups = query.shape[1] // value.shape[1]
        return value.repeat_interleave(groups, dim=1).transpose(1, 2), None

    AttentionInterface.register("capture", capture)
    model.set_attn_implementation("capture")
    layers = models.attention_layers(model)
    handles = [
        layer.register_forward_hook(
            lambda module, args, kwargs, output: given.update({module: kwargs}), with_kwargs=True
        )
        for layer in layers
    ]
    with models.hooked(handles):
        model(**inputs)
    for layer in layers:
        kwargs = rotary.rotation_of(layer, given[layer])
        hidden, turn = kwargs["hidden_states"], kwargs["position_embeddings"]
        before = models.queries_before_rotation(layer, hidden), models.keys_before_rotation(layer, hidden)
        for states, expected in zip(before, used[layer], strict=True):
            torch.testing.assert_close(rotary.rotate(states, *turn), expected)


def test_places_after_a_context_with_images_are_turned_into_positions():
    model = make_vision("qwen2_5_vl")
    decoder, like = models.language_model(model), torch.zeros(1)
    assert rotary.is_multimodal(decoder.rotary_emb) and not rotary.is_multimodal(make_tiny("llama").model.rotary_emb)
    with models.rotary_at_hand(model) as places:
        assert all(rotary.counts_places(layer) for layer in models.attention_layers(model))
        asked = torch.arange(100, 104)[None]

        def at(positions):
            return decoder.rotary_emb(like, positions.expand(3, *positions.shape))[0][0]

        assert torch.equal(places(like, asked)[0], at(asked))
        places.length, places.following = 100, torch.tensor([[44], [50]])
        both = torch.stack([asked[0] - 56, asked[0] - 50])
        assert torch.equal(places(like, asked)[0], at(both))
        assert torch.equal(places(like, asked, ahead=-20)[0], at(asked - 20))
    assert not any(rotary.counts_places(layer) for layer in models.attention_layers(model))
