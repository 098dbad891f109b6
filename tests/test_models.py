import pytest
import torch
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    T5Config,
)

from pikvpress import models
from tests.conftest import CONFIGS, make_tiny


@pytest.mark.parametrize("name", CONFIGS)
def test_queries_and_keys_are_those_of_the_models_own_attention(name, ids):
    model = make_tiny(name)
    used = {}

    def capture(module, query, key, value, attention_mask, **kwargs):
        used[module.layer_idx] = (query.clone(), key.clone())
        return value.repeat_interleave(module.num_key_value_groups, dim=1).transpose(1, 2), None

    AttentionInterface.register("capture", capture)
    model.set_attn_implementation("capture")
    states = {}

    def remember(module, args, kwargs, output):
        states[module.layer_idx] = kwargs

    decoder = models.language_model(model)
    for layer in decoder.layers:
        layer.self_attn.register_forward_hook(remember, with_kwargs=True)
    with torch.no_grad():
        model(ids)
    for layer in decoder.layers:
        module, kwargs = layer.self_attn, states[layer.self_attn.layer_idx]
        cos, sin = kwargs["position_embeddings"]
        query = models.rotate(models.queries_before_rotation(module, kwargs["hidden_states"]), cos, sin)
        key = models.rotate(models.keys_before_rotation(module, kwargs["hidden_states"]), cos, sin)
        torch.testing.assert_close(query, used[module.layer_idx][0])
        torch.testing.assert_close(key, used[module.layer_idx][1])
        module.rotary_emb = decoder.rotary_emb
        positions = torch.arange(ids.shape[1]).unsqueeze(0)
        torch.testing.assert_close(models.rotary_embedding(module, query, positions)[0], cos)
        for mine, theirs in zip(models.rotary_from(module, query, 0), (cos, sin), strict=True):
            torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(models.rotary_from(module, query[:, :, 3:], 3)[1], sin[:, 3:])


@pytest.mark.parametrize("name", [*CONFIGS, "gemma3_vision"])
def test_supported_architectures_pass(name):
    models.check_supported(make_tiny(name))


def test_gpt2_is_refused_with_a_reason():
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=32))
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel cannot be compressed.*absolute positions.*Llama"):
        models.check_supported(model)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=32), "the keys of two texts"),
        (BartConfig(vocab_size=32, d_model=16, encoder_layers=1, decoder_layers=1), "the keys of two texts"),
        (MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=1), "without attention"),
    ],
)
def test_other_kinds_of_models_are_refused_in_a_sentence(config, message):
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with pytest.raises(ValueError, match=message):
        models.check_supported(kind.from_config(config))


def test_layers_without_attention_are_named(llama):
    del llama.model.layers[1].self_attn
    with pytest.raises(ValueError, match="layer 1 has no self-attention"):
        models.check_supported(llama)


def test_partial_rotation_passes_the_other_channels_through():
    states = torch.randn(1, 1, 3, 8)
    angles = torch.randn(1, 3, 2).repeat(1, 1, 2)
    turned = models.rotate(states, angles.cos(), angles.sin())
    torch.testing.assert_close(turned[..., 4:], states[..., 4:])
    torch.testing.assert_close(turned.norm(dim=-1), states.norm(dim=-1))


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_a_rotation_is_undone_also_one_that_scales(factor):
    states, angles = torch.randn(1, 2, 3, 8), torch.randn(1, 3, 2).repeat(1, 1, 2)
    turn = angles.cos() * factor, angles.sin() * factor
    torch.testing.assert_close(models.unrotate(models.rotate(states, *turn), *turn), states)


def test_a_fingerprint_survives_half_precision_and_tells_models_apart():
    model, other = make_tiny("llama"), make_tiny("llama", seed=1)
    attention = model.model.layers[0].self_attn
    exact = models.fingerprint(attention)
    assert models.fingerprint(attention.bfloat16()) == exact
    assert models.fingerprint(other.model.layers[0].self_attn)["weights"] != exact["weights"]
    assert exact["num_key_value_heads"] == "2"


def test_a_cache_is_found_under_either_name():
    cache = DynamicCache()
    assert models.cache_given({"past_key_values": cache}) is models.cache_given({"cache": cache}) is cache
    assert models.cache_given({"cache": None, "past_key_values": cache}) is cache and models.cache_given({}) is None
