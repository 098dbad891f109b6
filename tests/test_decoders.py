"""Where the decoder of a model is."""

from __future__ import annotations

import pytest

from pikvpress import decoders, models
from tests.conftest import make_tiny
from tests.vision import VISION, make_vision


@pytest.mark.parametrize("name", VISION)
def test_of_a_model_that_reads_images_only_the_text_half_is_compressed(name):
    model = make_vision(name)
    layers = models.attention_layers(model)
    every = [module for module in model.modules() if hasattr(module, "k_proj") or hasattr(module, "qkv")]
    assert len(layers) == 2 < len(every)
    assert [layer.layer_idx for layer in layers] == [0, 1]
    assert all(layer.config is models.language_model(model).config for layer in layers)
    found = models.fingerprint(layers[0])
    shape = {"num_hidden_layers": "2", "num_key_value_heads": "2", "head_dim": "16", "hidden_size": "64"}
    assert found | shape == found


def test_kvpress_finds_the_decoder_of_a_smolvlm_for_a_while():
    model = make_vision("smolvlm")
    names = [*model.state_dict()]
    with decoders.decoder_at_hand(model):
        assert model.model.language_model is model.model.text_model
        assert [*model.state_dict()] == names
    assert not hasattr(model.model, "language_model")


def test_other_models_are_not_touched(llama):
    vision = make_tiny("gemma3_vision")
    before = vars(vision.model).copy()
    with decoders.decoder_at_hand(llama), decoders.decoder_at_hand(vision):
        assert not hasattr(llama.model, "language_model")
        assert decoders.language_model(llama) is llama.model
        assert vars(vision.model) == before
