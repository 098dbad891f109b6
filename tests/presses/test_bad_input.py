import pytest
import torch
from kvpress import (
    AdaKVPress,
    ComposedPress,
    CriticalAdaKVPress,
    DecodingPress,
    KnormPress,
    PrefillDecodingPress,
)
from transformers import DynamicCache

from pikvpress import DEFAULT_EXPERTS, MoERouterPress
from tests.conftest import make_tiny
from tests.helpers import prefill


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"compression_ratio": 1.0}, ValueError, r"must be in \[0, 1\), got 1.0"),
        ({"compression_ratio": -0.1}, ValueError, r"must be in \[0, 1\)"),
        ({"compression_ratio": float("nan")}, ValueError, r"must be in \[0, 1\)"),
        ({"compression_ratio": "half"}, TypeError, "must be a number"),
        ({"router_type": "pickv"}, ValueError, "did you mean pikv"),
        ({"experts": ["keydif"]}, ValueError, "did you mean keydiff"),
        ({"top_k": 7}, ValueError, "top_k=7 chooses more experts than the 6"),
        ({"experts": ["knorm"], "num_experts": 2}, ValueError, "only 1 experts are given"),
        ({"router_type": "hierarchical", "num_groups": 9}, ValueError, "num_groups=9 leaves groups empty"),
        ({"temperature": -1}, ValueError, "temperature"),
        ({"gates": "/nowhere/gates.safetensors"}, FileNotFoundError, "no gates file at"),
    ],
)
def test_bad_settings_never_make_a_press(settings, error, message):
    with pytest.raises(error, match=message):
        MoERouterPress(**settings)


def test_an_empty_context_is_refused_before_any_layer(llama):
    with MoERouterPress(0.5)(llama), pytest.raises(ValueError, match="the context is empty"):
        llama(torch.zeros(1, 0, dtype=torch.long), past_key_values=DynamicCache())


def test_a_context_shorter_than_the_protected_window_is_refused_before_any_layer(llama, ids):
    cache = DynamicCache()
    press = MoERouterPress(0.5, experts=["snapkv"])
    with press(llama), pytest.raises(ValueError, match=r"has 64 tokens.*at least 65"):
        llama(ids[:, :64], past_key_values=cache)
    assert cache.get_seq_length() == 0
    prefill(llama, ids[:, :65], press)
    press.compression_ratio = 0.0
    prefill(llama, ids[:, :10], press)


def test_experts_that_need_more_tokens_than_there_are_sit_out(llama, ids):
    press = MoERouterPress(0.5)
    cache = prefill(llama, ids[:, :20], press)
    assert [layer.keys.shape[2] for layer in cache.layers] == [10, 10]
    weights = torch.tensor(press.get_stats()["layer_stats"][0]["expert_weights"])
    assert (weights[:, DEFAULT_EXPERTS.index("snapkv")] == 0).all() and (weights.sum(dim=-1) - 1).abs().max() < 1e-3


def test_inside_a_wrapper_too_short_a_context_is_refused_when_no_expert_can_score(llama, ids):
    with pytest.raises(ValueError, match=r"none of the experts snapkv can score 20 keys.*keydiff"):
        prefill(llama, ids[:, :20], AdaKVPress(MoERouterPress(0.5, experts=["snapkv"])))


def test_experts_that_need_positions_are_refused_after_a_press_that_lost_them(llama, ids):
    press = ComposedPress([KnormPress(0.2), MoERouterPress(0.5, experts=["snapkv", "tova"])])
    with pytest.raises(ValueError, match=r"none of the experts snapkv, tova.*compress before the other press"):
        prefill(llama, ids, press)
    assert not any(layer.self_attn._forward_hooks for layer in llama.model.layers)


@pytest.mark.parametrize(
    "press",
    [
        ComposedPress([CriticalAdaKVPress(KnormPress(0.3)), MoERouterPress(0.3)]),
        PrefillDecodingPress(AdaKVPress(KnormPress(0.3)), DecodingPress(MoERouterPress(), 2, 100)),
        DecodingPress(AdaKVPress(MoERouterPress()), 2, 100),
    ],
    ids=["composed", "prefill and decoding", "decoding twice"],
)
def test_keys_that_another_press_masked_are_neither_scored_again_nor_moved(llama, ids, press):
    with pytest.raises(ValueError, match="another press has masked keys of layer 0"), press(llama):
        llama.generate(ids, max_new_tokens=8, do_sample=False)
    assert not any(layer.self_attn._forward_hooks for layer in llama.model.layers)


def test_scores_that_are_not_numbers_name_the_expert(llama, ids):
    class Overflowing(KnormPress):
        def score(self, *args, **kwargs):
            return super().score(*args, **kwargs) * float("nan")

    with pytest.raises(
        ValueError,
        match="the scores of Overflowing in layer 0 are NaN, though",
    ):
        prefill(llama, ids, MoERouterPress(0.5, experts=["keydiff", Overflowing()]))


def test_a_model_called_without_a_cache(llama, ids):
    with MoERouterPress(0.5)(llama), pytest.raises(ValueError, match="there is no cache to compress"):
        llama(ids, use_cache=False)


def test_wrappers_over_sliding_layers_are_refused_with_a_way_out(ids):
    with pytest.raises(ValueError, match=r"sliding-window attention and cannot be scored.*PerLayerPress"):
        prefill(make_tiny("gemma3"), ids, AdaKVPress(MoERouterPress(0.5)))
