"""The routers of models that are mixtures of experts: found in every class, and heard without changing them."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload

from pikvpress import moe
from tests.conftest import make_tiny

CLASSES = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss", "granitemoe", "llama4_text"]


def heard(model, ids):
    """Return the choices that were seen in one forward, by layer, and the model's output."""
    seen = {}
    with torch.no_grad(), moe.choices_seen(model, seen.__setitem__):
        output = model(ids)
    return seen, output.logits


def of_the_experts(model, ids):
    """Return which experts read each token of a Mixtral-like model, by what arrives at the experts themselves."""
    chosen = []
    blocks = [layer.mlp for layer in model.model.layers]
    handles = [block.experts.register_forward_pre_hook(lambda module, args: chosen.append(args[1])) for block in blocks]
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    return chosen


@pytest.mark.parametrize("name", CLASSES)
def test_every_layer_tells_its_choice_and_nothing_changes(name, ids):
    model = make_tiny(name)
    seen, output = heard(model, ids[:, :50].view(2, 25))
    with torch.no_grad():
        assert torch.equal(output, model(ids[:, :50].view(2, 25)).logits)
    assert sorted(seen) == [0, 1]
    for choice in seen.values():
        assert choice.logits.shape == (50, 4) and choice.chosen.shape == (50, choice.per_token)
        assert ((choice.entropy > 0) & (choice.entropy <= torch.tensor(4.0).log() + 1e-6)).all()
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss"])
def test_the_chosen_experts_are_those_that_read_the_token(name, ids):
    model = make_tiny(name)
    seen, _ = heard(model, ids)
    assert seen[0].per_token == 2
    for choice, truth in zip(seen.values(), of_the_experts(model, ids), strict=True):
        assert torch.equal(choice.chosen, truth)


def test_logits_are_the_same_where_a_class_returns_probabilities(ids):
    """Mixtral returns probabilities, GraniteMoE the logits; both are asked for the router's own product."""
    for name, router in (("mixtral", "mlp.gate"), ("granitemoe", "block_sparse_moe.router.layer")):
        model = make_tiny(name)
        inputs = []
        handle = (
            model.model.layers[1]
            .get_submodule(router)
            .register_forward_pre_hook(lambda module, args, inputs=inputs: inputs.append(args[0]))
        )
        seen, _ = heard(model, ids)
        handle.remove()
        weight = model.model.layers[1].get_submodule(router).weight
        torch.testing.assert_close(seen[1].logits, inputs[0].reshape(-1, 64) @ weight.T)


def test_entropy_is_that_of_the_probabilities():
    choice = moe.ExpertChoice(torch.tensor([[0.0, 0.0, 0.0, 0.0], [50.0, 0.0, 0.0, 0.0]]), 1)
    torch.testing.assert_close(choice.entropy, torch.tensor([4.0, 1.0]).log(), atol=1e-6, rtol=1e-6)
    assert choice.chosen[1].tolist() == [0]
    assert moe.ExpertChoice(choice.logits.double(), 1).entropy.dtype == torch.float64


@pytest.mark.parametrize("name", ["llama", "gemma3", "gemma3_vision"])
def test_dense_models_are_not_hooked(name):
    model = make_tiny(name)
    assert moe.routers_of(model) == {}
    with moe.choices_seen(model, lambda layer, choice: None):
        assert not any(module._forward_hooks for module in model.modules())


def test_dense_layers_of_a_mixture_have_no_router():
    model = make_tiny("qwen3_moe")
    model.model.layers[0].mlp = make_tiny("qwen3").model.layers[0].mlp
    assert list(moe.routers_of(model)) == [1]


def test_routers_that_choose_by_corrected_logits_are_left_out():
    assert moe.routers_of(make_tiny("deepseek_v3")) == {}


def test_offloaded_routers_are_heard_too(ids):
    model = make_tiny("mixtral")
    seen, _ = heard(model, ids)
    cpu_offload(model, execution_device=torch.device("cpu"))
    again, _ = heard(model, ids)
    assert all(torch.equal(again[layer].logits, seen[layer].logits) for layer in (0, 1))
    assert moe.routers_of(model)[0].weight.is_meta


def test_hooks_are_removed_after_an_error(ids):
    model = make_tiny("mixtral")

    def refuse(layer, choice):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), moe.choices_seen(model, refuse):
        model(ids)
    assert not any(module._forward_hooks for module in model.modules())
