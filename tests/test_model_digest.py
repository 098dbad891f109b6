"""A digest of a model differs as soon as one weight does, and is computed once."""

from __future__ import annotations

import copy

import pytest
import torch

from pikvpress import model_digest, models
from pikvpress.model_digest import ModelDigest, as_bytes, digest_of_bytes, model_of
from tests.conftest import make_tiny


def test_equal_models_have_equal_digests(llama):
    twin = make_tiny("llama")
    assert ModelDigest.of(llama) == ModelDigest.of(twin) == ModelDigest.of(copy.deepcopy(llama))
    assert ModelDigest.of(llama).differences(ModelDigest.of(twin)) == ""


@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_one_weight_makes_another_digest_also_of_the_same_object(llama, name):
    before = ModelDigest.of(llama)
    weight = dict(llama.named_parameters())[name]
    with torch.no_grad():
        weight.view(-1)[-1] += 1e-6 * weight.view(-1)[-1].abs() + 1e-7
    assert ModelDigest.of(llama).differences(before) == "weights"
    assert ModelDigest.of(make_tiny("llama")) == before


def test_data_type_architecture_and_positions_count(llama):
    digest = ModelDigest.of(llama)
    assert ModelDigest.of(copy.deepcopy(llama).bfloat16()).differences(digest) == "weights"
    assert ModelDigest.of(make_tiny("qwen2")).differences(digest) == "architecture, config, weights"
    other = make_tiny("llama")
    other.config.rms_norm_eps = 1e-5
    assert ModelDigest.of(other).differences(digest) == "config"


def test_settings_that_change_no_numbers_do_not_count(llama):
    digest = ModelDigest.of(llama)
    llama.config.pad_token_id, llama.config.use_cache, llama.config._name_or_path = 5, False, "elsewhere"
    llama.set_attn_implementation("eager")
    assert ModelDigest.of(llama) == digest


def test_weights_are_read_once(llama, monkeypatch):
    read = []
    monkeypatch.setattr(model_digest, "digest_of_bytes", lambda tensor: read.append(1) or digest_of_bytes(tensor))
    ModelDigest.of(llama)
    first = len(read)
    assert first == len([*llama.parameters()])
    ModelDigest.of(llama)
    assert len(read) == first
    llama.lm_head.weight = torch.nn.Parameter(llama.lm_head.weight.detach().clone())
    ModelDigest.of(llama)
    assert len(read) == 2 * first


def test_weights_that_count_no_changes_are_read_every_time():
    with torch.inference_mode():
        model = make_tiny("llama")
        before = ModelDigest.of(model)
        model.lm_head.weight[0, 0] += 1
        assert ModelDigest.of(model).differences(before) == "weights"


def test_tied_weights_count_once_and_stored_buffers_too(llama):
    llama.lm_head.weight = llama.model.embed_tokens.weight
    digest = ModelDigest.of(llama)
    llama.register_buffer("scale", torch.ones(1))
    with_buffer = ModelDigest.of(llama)
    llama.scale += 1
    assert len({digest, with_buffer, ModelDigest.of(llama)}) == 3


def test_what_is_no_model_in_memory_is_refused(llama):
    with pytest.raises(TypeError, match="must be a model of transformers, got Linear"):
        ModelDigest.of(torch.nn.Linear(2, 2))
    llama.model.norm = torch.nn.Linear(2, 2, device="meta")
    with pytest.raises(ValueError, match=r"weights of model\.norm\.weight are not in memory"):
        ModelDigest.of(llama)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_vision"])
def test_the_model_around_an_attention_module_is_found(architecture):
    model, twin = make_tiny(architecture), make_tiny(architecture)
    assert model_of(models.attention_layers(model)[1]) is model
    assert model_of(models.attention_layers(twin)[0]) is twin


def test_two_models_around_an_attention_module_are_refused(llama):
    other = make_tiny("llama")
    other.model = llama.model
    with pytest.raises(ValueError, match="2 models contain the attention layers"):
        model_of(models.attention_layers(llama)[0])


def test_bytes_are_those_of_the_numbers():
    numbers = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).bfloat16()
    assert bytes(as_bytes(numbers)) == b"\x80\x3f\x00\x40\x40\x40\x80\x40"
    assert as_bytes(numbers.T) == as_bytes(numbers.T.contiguous())
    assert bytes(as_bytes(torch.zeros(0))) == b""
