"""Models with adapters of peft: LoRA, DoRA and rsLoRA, wrapped, merged and switched."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import pipeline

from pikvpress import MoERouterPress, PiKVCache, PiKVPress, models
from pikvpress.calibration import calibrate
from pikvpress.gates import save_gates
from pikvpress.model_digest import ModelDigest
from tests.conftest import make_tiny
from tests.evaluation.tiny_tokenizer import make_tokenizer
from tests.helpers import uneven_gates

peft = pytest.importorskip("peft", reason="peft is not installed, so adapters are not tested: pip install peft")

KINDS = {"lora": {}, "dora": {"use_dora": True}, "rslora": {"use_rslora": True}}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def config(kind="lora", targets=TARGETS):
    return peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **KINDS[kind])


def with_adapter(kind="lora", zero=False, targets=TARGETS):
    """Return a tiny model with an adapter; a zero one leaves its outputs as they are."""
    model = peft.get_peft_model(make_tiny("llama"), config(kind, targets)).eval()
    if not zero:
        fill(model, "default", 1)
    return model


def fill(model, adapter, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and f".{adapter}." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)


def compressed(model, ids, press, inner=None):
    """Return logits of three tokens after a context, compressed with a press around `model`, and the cache."""
    cache, run = PiKVCache(), inner or model
    with torch.no_grad():
        with press(model):
            run(input_ids=ids[:, :200], past_key_values=cache)
        positions = torch.arange(200, 203)[None]
        return run(input_ids=ids[:, 200:203], position_ids=positions, past_key_values=cache).logits, cache


@pytest.mark.parametrize("press", [MoERouterPress(0.5, gates=None), PiKVPress(0.75, gates=None)], ids=["moe", "pikv"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_adapter_is_the_base_model_to_the_bit(kind, press, ids):
    base, cache = compressed(make_tiny("llama"), ids, press)
    adapted, of_adapted = compressed(with_adapter(kind, zero=True), ids, press)
    assert torch.equal(adapted, base)
    assert of_adapted.nbytes == cache.nbytes
    assert [layer.counts() for layer in of_adapted.layers] == [layer.counts() for layer in cache.layers]


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_changes_what_is_kept_and_is_merged_without_a_difference(kind, ids):
    press = MoERouterPress(0.5, gates=None)
    base, _ = compressed(make_tiny("llama"), ids, press)
    model = with_adapter(kind)
    wrapped, _ = compressed(model, ids, press)
    assert not torch.allclose(wrapped, base, atol=1e-2)
    inner, _ = compressed(model.get_base_model(), ids, press)
    assert torch.equal(inner, wrapped)
    merged, _ = compressed(model.merge_and_unload(), ids, press)
    assert (merged - wrapped).abs().max() < 1e-3


def test_adapters_are_switched_and_turned_off(ids):
    press, model = MoERouterPress(0.5, gates=None), with_adapter()
    first, _ = compressed(model, ids, press)
    model.add_adapter("second", config())
    fill(model, "second", 2)
    model.set_adapter("second")
    second, _ = compressed(model, ids, press)
    assert not torch.allclose(first, second, atol=1e-2)
    model.set_adapter("default")
    again, _ = compressed(model, ids, press)
    assert torch.equal(again, first)
    with model.disable_adapter():
        off, _ = compressed(model, ids, press)
    base, _ = compressed(make_tiny("llama"), ids, press)
    assert torch.equal(off, base)


def test_generate_and_no_hooks_stay(ids):
    press, model = MoERouterPress(0.5, gates=None), with_adapter()
    with press(model):
        output = model.generate(input_ids=ids[:, :200], max_new_tokens=3, do_sample=False)
    with press(model.get_base_model()):
        expected = model.get_base_model().generate(input_ids=ids[:, :200], max_new_tokens=3, do_sample=False)
    assert torch.equal(output, expected)
    assert press.get_stats()["bytes_after"] < 0.6 * press.get_stats()["bytes_before"]
    assert not any(layer._forward_hooks for layer in models.attention_layers(model))


def test_the_pipeline_takes_a_wrapped_model():
    tokenizer = make_tokenizer(vocabulary=[f"w{number}" for number in range(400)])
    context, question = (" ".join(f"w{number}" for number in numbers) for numbers in (range(200), range(5)))
    answers = []
    for model in (make_tiny("llama"), with_adapter(zero=True), with_adapter()):
        press, cache = MoERouterPress(0.5, gates=None), PiKVCache()
        pipe = pipeline("kv-press-text-generation", model=model, tokenizer=tokenizer)
        answers.append(pipe(context, question=question, press=press, cache=cache, max_new_tokens=8)["answer"])
        assert press.get_stats()["bytes_after"] < 0.6 * press.get_stats()["bytes_before"]
    assert answers[0] == answers[1] != answers[2]


def test_gates_of_the_base_model_serve_its_adapters_as_long_as_its_weights_are_there(tmp_path, ids):
    path = tmp_path / "gates.safetensors"
    save_gates(path, uneven_gates(make_tiny("llama")))
    press = MoERouterPress(0.5, gates=path)
    model = with_adapter()
    compressed(model, ids, press)
    assert press.plan.fitted
    with pytest.raises(ValueError, match="weights"), press(model.merge_and_unload()):
        pytest.fail("merged weights are not those of the gates")


def test_saved_caches_know_the_adapter(tmp_path, ids):
    model = with_adapter()
    _, cache = compressed(model, ids, MoERouterPress(0.5, gates=None))
    cache.save(tmp_path / "cache.safetensors", model=model)
    PiKVCache.load(tmp_path / "cache.safetensors", model)
    used = ModelDigest.of(model)
    model.merge_adapter()
    assert ModelDigest.of(model) != used
    model.unmerge_adapter()
    model.add_adapter("second", config())
    with_two = ModelDigest.of(model)
    model.set_adapter("second")
    assert ModelDigest.of(model) != with_two
    with pytest.raises(ValueError, match="another model"):
        PiKVCache.load(tmp_path / "cache.safetensors", model)


def test_adapters_that_write_entries_are_refused(ids):
    settings = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    model = peft.get_peft_model(make_tiny("llama"), peft.PrefixTuningConfig(**settings)).eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="puts learned entries before the context"), MoERouterPress(0.5)(model):
        pytest.fail("the model was touched")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_with_an_adapter_is_not_calibrated(tmp_path):
    with pytest.raises(ValueError, match="would take the place of those of its base model"):
        calibrate(with_adapter(), None, output=tmp_path / "gates.safetensors")
