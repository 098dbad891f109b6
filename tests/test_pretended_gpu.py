"""Everything that runs in a model's forward keeps its tensors where the model is; checked without a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from kvpress import AdaKVPress, SnapKVPress
from transformers import DynamicCache

from benchmarks.end_to_end import EXPERTS
from benchmarks.stand_in_gates import write_gates
from pikvpress import SCHEDULERS, MoERouterPress, PiKVCache, PiKVPress
from tests.conftest import make_tiny
from tests.pretended_gpu import GPU, PretendedGpu, is_there, moved


def test_a_pretended_gpu_refuses_what_one_does():
    here = torch.ones(3)
    with PretendedGpu():
        there = here.to("cuda")
        assert there.device == GPU and (there + 1).device == GPU and (there * torch.tensor(2.0)).device == GPU
        assert here.device.type == "cpu" and there.cpu().device.type == "cpu" and not is_there(here)
        assert torch.zeros(2, device=there.device).device == GPU and there.new_ones(2).device == GPU
        assert there[torch.tensor([0, 1])].device == GPU and here.copy_(there).device.type == "cpu"
        for refused in (lambda: there + here, lambda: here[there.long()], lambda: torch.cat([here, there])):
            with pytest.raises(RuntimeError, match="two devices"):
                refused()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        layer = torch.nn.Linear(3, 2).to(GPU)
        assert layer(there).device == GPU


class Event:
    """What is used of an event on a GPU."""

    def __init__(self, enable_timing):
        pass

    def record(self, stream):
        pass

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return 0.0


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.random, "fork_rng", lambda *_, **__: nullcontext())
    with PretendedGpu(), torch.no_grad():
        model = moved(make_tiny("llama"))
        yield SimpleNamespace(model=model, ids=torch.randint(500, (1, 200)).to(GPU))


def read_and_decode(gpu, cache, press=None):
    """Read a context, generate, double the batch and generate on."""
    if press is None:
        gpu.model(input_ids=gpu.ids, past_key_values=cache)
    else:
        with press(gpu.model):
            gpu.model(input_ids=gpu.ids, past_key_values=cache)
    token = gpu.ids[:, -1:]
    for batch in (1, 2):
        if batch == 2:
            cache.batch_repeat_interleave(2)
            token = token.repeat_interleave(2, dim=0)
        for _ in range(2):
            token = gpu.model(input_ids=token, past_key_values=cache).logits[:, -1:].argmax(dim=-1)
    assert token.device == GPU
    return cache


@pytest.mark.parametrize("looks", [False, True])
def test_presses_with_gates(gpu, tmp_path, looks):
    gates = tmp_path / "gates.safetensors"
    write_gates(gpu.model, EXPERTS, gates, looks)
    read_and_decode(gpu, DynamicCache(), MoERouterPress(0.5, gates=gates))
    read_and_decode(gpu, PiKVCache(), MoERouterPress(0.5, gates=gates))
    read_and_decode(gpu, PiKVCache(), AdaKVPress(MoERouterPress(0.5, gates=gates)))
    for ratio in (0.5, 0.875):
        cache = read_and_decode(gpu, PiKVCache(), PiKVPress(ratio, gates=gates))
        assert cache.nbytes > 0


@pytest.mark.parametrize("budgets", ["equal", "pyramid", "adakv", "global"])
def test_presses_without_gates(gpu, budgets):
    read_and_decode(gpu, PiKVCache(), MoERouterPress(0.5, gates=None, budgets=budgets))


@pytest.mark.parametrize("codec", ["int4", "rot3", "rank4+int2"])
def test_caches_that_pack(gpu, codec):
    read_and_decode(gpu, PiKVCache(codec, codec, window=16))


def test_masked_heads(gpu):
    read_and_decode(gpu, PiKVCache(), AdaKVPress(SnapKVPress(0.5)))


@pytest.mark.parametrize("scheduler", sorted(set(SCHEDULERS) - {"duo", "saliency"}))
def test_schedulers(gpu, scheduler):
    read_and_decode(gpu, PiKVCache(scheduler=scheduler, max_tokens=150, window=16))
