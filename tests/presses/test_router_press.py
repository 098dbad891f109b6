"""What presses with a router share."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from pikvpress import MoERouterPress, PiKVCache, PiKVPress
from pikvpress.gates import file_name, find, save_gates
from pikvpress.presses.router_press import RouterPress
from tests.conftest import make_tiny
from tests.helpers import uneven_gates


def test_both_presses_are_router_presses():
    assert issubclass(MoERouterPress, RouterPress) and issubclass(PiKVPress, RouterPress)


@torch.no_grad()
def test_a_model_is_left_as_it_was_found(llama, ids):
    before = {name: len(module._forward_hooks) for name, module in llama.named_modules()}
    for fails in (False, True):
        press, cache = MoERouterPress(0.5, gates=None), DynamicCache()
        with press(llama):
            if fails:
                with pytest.raises(ValueError, match="the context is empty"):
                    llama(ids[:, :0], past_key_values=cache)
            else:
                llama(ids, past_key_values=cache)
        assert {name: len(module._forward_hooks) for name, module in llama.named_modules()} == before
        assert not any(hasattr(layer.self_attn, "rotary_emb") for layer in llama.model.layers)


def test_presses_made_alike_are_alike():
    assert MoERouterPress(0.5) == MoERouterPress(0.5) != MoERouterPress(0.6)
    assert PiKVPress(0.5) == PiKVPress(0.5) and "0.5" in repr(PiKVPress(0.5))


@torch.no_grad()
@pytest.mark.parametrize("make", [MoERouterPress, PiKVPress])
def test_gates_are_read_once_for_each_model(make, llama, ids, tmp_path, monkeypatch):
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path))
    models, read = [llama, make_tiny(seed=1)], []
    for model in models:
        gates = uneven_gates(model)
        save_gates(tmp_path / file_name(gates.model), gates)
    load = find.load_gates
    monkeypatch.setattr(find, "load_gates", lambda path: read.append(path) or load(path))
    press = make(0.5)
    for number, model in enumerate([*models, llama], 1):
        with press(model):
            model(ids, past_key_values=PiKVCache())
        assert len(read) == number
    with press(llama), press(models[1]):  # each has its own
        models[1](ids, past_key_values=PiKVCache())
    assert len(read) == 5 and read[3:] == read[:2]


def test_gates_that_cannot_be_used_are_refused_before_the_model_is_touched(llama, tmp_path, monkeypatch):
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path))
    (tmp_path / file_name(uneven_gates(llama).model)).write_text("no gates")
    before = {name: len(module._forward_hooks) for name, module in llama.named_modules()}
    press = MoERouterPress(0.5)
    with pytest.raises(ValueError, match="gates"), press(llama):
        pytest.fail("the model was touched")
    assert {name: len(module._forward_hooks) for name, module in llama.named_modules()} == before
