"""What presses with a router have in common."""

from __future__ import annotations

from dataclasses import replace

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
    with press(llama), press(models[1]):  # each has its own router
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


def with_queries(model):
    generator = torch.Generator().manual_seed(5)
    return replace(uneven_gates(model), queries=torch.randn(2, 4, 8, 16, generator=generator).half())


@pytest.mark.parametrize("make", [MoERouterPress, PiKVPress])
def test_values_are_refitted_if_the_gates_have_queries_or_one_asks(make, llama, ids, tmp_path):
    paths = {"with": tmp_path / "with", "without": tmp_path / "without"}
    save_gates(paths["with"], with_queries(llama))
    save_gates(paths["without"], uneven_gates(llama))

    def values(gates, **settings):
        cache = PiKVCache()
        with torch.no_grad(), make(0.75, gates=paths[gates], budgets="fitted", **settings)(llama):
            llama(input_ids=ids, past_key_values=cache)
        cache.settle()
        stretch = cache.layers[1].entries.compressed.context[0]
        return torch.cat([stretch.values.part(head) for head in range(2)]), stretch.counts

    (plain, counts), others = values("without"), {}
    for name, gates, settings in (
        ("auto", "with", {}),
        ("asked", "without", {"refit": True}),
        ("off", "with", {"refit": False}),
    ):
        others[name], found = values(gates, **settings)
        assert found == counts  # the same tokens are kept
    assert torch.equal(others["off"], plain)
    assert not torch.equal(others["auto"], plain) and not torch.equal(others["asked"], plain)
    assert not torch.equal(others["auto"], others["asked"])


def test_values_stay_as_they_were_where_several_layers_are_decided_at_once(llama, ids):
    def values(**settings):
        cache = PiKVCache()
        with torch.no_grad(), MoERouterPress(0.5, gates=None, budgets="global", **settings)(llama):
            llama(input_ids=ids, past_key_values=cache)
        cache.settle()
        stretches = [layer.entries.compressed.context[0].values for layer in cache.layers]
        return [stretch.part(head) for stretch in stretches for head in range(2)]

    for asked, plain in zip(values(refit=True), values(), strict=True):
        assert torch.equal(asked, plain)


def test_refit_is_a_choice_of_three():
    with pytest.raises(ValueError, match="refit must be True, False or 'auto', got 'yes'"):
        MoERouterPress(0.5, refit="yes")
