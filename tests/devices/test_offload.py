"""A model whose weights accelerate fetches only while they are used compresses as one in memory."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload, disk_offload

from pikvpress import MoERouterPress, PiKVCache, PiKVPress, models
from pikvpress.calibration import calibrate
from pikvpress.gates import save_gates
from pikvpress.memory import measure_memory_usage
from tests.conftest import make_tiny
from tests.helpers import uneven_gates

EXPERTS = ["expected_attention", "compactor", "snapkv", "probe_attention"]


def offloaded(way: str, folder, name: str = "llama"):
    """Return a tiny model without weights in memory."""
    model = make_tiny(name)
    if way == "cpu":
        cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        disk_offload(model, folder, execution_device=torch.device("cpu"))
    assert all(weight.is_meta for weight in model.parameters())
    return model


@torch.no_grad()
def read(model, ids, press, cache):
    with press(model):
        model(input_ids=ids, past_key_values=cache)
    return (
        model(input_ids=ids[:, :5], past_key_values=cache).logits,
        cache.nbytes,
        [one.counts() for one in cache.layers],
    )


@pytest.mark.parametrize("way", ["cpu", "disk"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3", "smollm3"])
def test_presses_score_with_weights_that_are_elsewhere(way, name, ids, tmp_path):
    press = MoERouterPress(0.5, gates=None, experts=EXPERTS, budgets="adakv")
    expected = read(make_tiny(name), ids, press, PiKVCache("int4", "int4", window=16))
    found = read(offloaded(way, tmp_path, name), ids, press, PiKVCache("int4", "int4", window=16))
    assert torch.equal(found[0], expected[0]) and found[1:] == expected[1:]


@pytest.mark.parametrize("way", ["cpu", "disk"])
def test_gates_are_found_and_leave_the_model_offloaded(way, ids, tmp_path):
    plain, model = make_tiny(), offloaded(way, tmp_path)
    save_gates(tmp_path / "gates.safetensors", uneven_gates(plain))
    assert models.fingerprint(models.attention_layers(model)[0]) == models.fingerprint(
        models.attention_layers(plain)[0]
    )
    press = PiKVPress(0.8, gates=tmp_path / "gates.safetensors")
    expected, found = read(plain, ids, press, PiKVCache()), read(model, ids, press, PiKVCache())
    assert torch.equal(found[0], expected[0]) and found[1:] == expected[1:]
    assert all(weight.is_meta for weight in model.parameters())


def test_what_needs_all_weights_at_once_says_so(ids, tmp_path):
    model, cache = offloaded("cpu", tmp_path), PiKVCache()
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache)
    with pytest.raises(ValueError, match="not in memory: load the model without offloading"):
        cache.save(tmp_path / "cache.safetensors", model)
    assert not (tmp_path / "cache.safetensors").exists()
    with pytest.raises(ValueError, match="not in memory: load the model without offloading to join"):
        PiKVCache.join([cache, cache], model, [ids, ids])
    assert cache.get_seq_length() == ids.shape[1]


@pytest.mark.parametrize("part", ["model", "model.layers.1"])
def test_what_one_device_must_hold_is_refused_with_several(part, ids):
    model = make_tiny()
    cpu_offload(model.get_submodule(part), execution_device=torch.device("cpu"))
    with pytest.raises(ValueError, match=r"on several devices or offloaded.*calibrate it on one device"):
        calibrate(model, None)
    with pytest.raises(ValueError, match="devices of one kind"):
        measure_memory_usage(model, ids)
