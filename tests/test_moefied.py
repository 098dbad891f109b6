"""A dense model whose MLPs are cut into experts: with all of them it is the dense model, and it saves and loads."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2MoeForCausalLM

from benchmarks.moefied import __main__ as commands
from benchmarks.moefied.assembling import FLATNESS, assembled
from benchmarks.moefied.clustering import active_on, balanced_clusters
from benchmarks.moefied.perplexity import largest_difference, perplexity
from benchmarks.moefied.splitting import Split, fit_router, split_layers
from benchmarks.moefied.texts import batch
from pikvpress import MoERouterPress, PiKVCache, moe
from tests.calibration.tiny import Tokenizer
from tests.conftest import make_tiny


@pytest.fixture(scope="module")
def dense():
    """Return a tiny model whose MLPs matter, and whose neurons are active on different tokens."""
    model = make_tiny("llama", seed=5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".mlp." in name:
                weight.mul_(10)
    return model


@pytest.fixture(scope="module")
def texts():
    return torch.randint(1, 500, (6, 40), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def splits(dense, texts):
    return split_layers(dense, texts, 8)


def groups(count: int, each: int) -> torch.Tensor:
    """Return profiles of items of which every `count`-th belongs together."""
    centres = torch.eye(count).repeat(each, 1)
    return centres + 0.05 * torch.randn(centres.shape, generator=torch.Generator().manual_seed(1))


def test_items_that_are_alike_form_clusters():
    found = balanced_clusters(groups(4, 6), 4)
    assert found.shape == (4, 6) and sorted(found.flatten().tolist()) == list(range(24))
    for own in found:
        assert len({int(item) % 4 for item in own}) == 1
        assert own.tolist() == sorted(own.tolist())


def test_clusters_are_equal_even_if_all_items_are_alike():
    for profiles in (torch.zeros(12, 3), torch.cat([torch.zeros(10, 3), torch.ones(2, 3)])):
        found = balanced_clusters(profiles, 4)
        assert sorted(found.flatten().tolist()) == list(range(12))


def test_a_seed_gives_the_same_clusters():
    profiles = torch.rand(32, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(balanced_clusters(profiles, 4, seed=1), balanced_clusters(profiles, 4, seed=1))
    assert not torch.equal(balanced_clusters(profiles, 4, seed=1), balanced_clusters(profiles, 4, seed=2))


def test_items_that_cannot_be_divided_are_refused():
    with pytest.raises(ValueError, match="10 items cannot be divided into 4 equal clusters"):
        balanced_clusters(torch.rand(10, 3), 4)


def test_a_tenth_of_the_neurons_is_active_on_a_token():
    contributions = torch.rand(7, 50, generator=torch.Generator().manual_seed(0))
    active = active_on(contributions)
    assert active.shape == (50, 7) and (active.sum(dim=0) == 5).all()
    assert bool(active[contributions[2].argmax(), 2]) and not bool(active[contributions[2].argmin(), 2])


def test_a_router_finds_the_experts_with_the_largest_outputs():
    """If the norms' logarithms are linear in the input."""
    generator = torch.Generator().manual_seed(0)
    inputs, truth = torch.randn(500, 16, generator=generator), torch.randn(4, 16, generator=generator)
    router = fit_router(inputs, (inputs @ truth.T).exp())
    new = torch.randn(100, 16, generator=generator)
    assert ((new @ router.T).argmax(dim=1) == (new @ truth.T).argmax(dim=1)).float().mean() > 0.95


def test_experts_have_every_neuron_once_and_the_model_is_left_alone(dense, splits):
    for split in splits:
        assert split.neurons.shape == (8, 12) and split.router.shape == (8, 64)
        assert sorted(split.neurons.flatten().tolist()) == list(range(96))
    assert not any(module._forward_pre_hooks for module in dense.modules())


def test_with_all_experts_the_model_is_the_dense_one(dense, splits, texts):
    mixture = assembled(dense, splits, 8)
    assert isinstance(mixture, Qwen2MoeForCausalLM) and not mixture.training
    scale = float(dense(texts).logits.detach().abs().max())
    assert largest_difference(dense, mixture, texts) < 1e-3 * scale
    one_less = assembled(dense, splits, 7)
    assert largest_difference(dense, one_less, texts) > 1e-2 * scale  # so the tolerance can tell


def test_chosen_experts_are_summed_with_weight_one(dense, splits, texts):
    """Whatever their number: one folder serves all."""
    split, mlp, block = splits[1], dense.model.layers[1].mlp, assembled(dense, splits, 3).model.layers[1].mlp
    inputs = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = (mlp.act_fn(mlp.gate_proj(inputs)) * mlp.up_proj(inputs))[0]
        chosen = (inputs[0] @ split.router.T).topk(3, dim=1).indices
        expected = []
        for activations, own in zip(hidden, split.neurons[chosen].flatten(1), strict=True):
            expected.append(mlp.down_proj.weight[:, own] @ activations[own])
        torch.testing.assert_close(block(inputs)[0], torch.stack(expected), rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(block.gate.weight, FLATNESS * split.router)


def test_it_is_written_and_read_with_any_number_of_active_experts(dense, splits, texts, tmp_path):
    mixture = assembled(dense, splits, 3)
    mixture.save_pretrained(tmp_path)
    found = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert largest_difference(mixture, found, texts) == 0
    two = AutoModelForCausalLM.from_pretrained(tmp_path, num_experts_per_tok=2)
    assert largest_difference(assembled(dense, splits, 2), two, texts) == 0


def test_presses_see_a_mixture_of_experts(dense, splits, ids):
    mixture, press = assembled(dense, splits, 3), MoERouterPress(0.5, gates=None)
    assert list(moe.routers_of(mixture)) == [0, 1]
    with torch.no_grad(), press(mixture):
        mixture(ids, past_key_values=PiKVCache())
    assert [(load.per_token, len(load.load)) for load in press.plan.moe] == [(3, 8), (3, 8)]
    assert "3 of 8 read a token, entropy 2.08 of 2.08" in str(press.plan)


@pytest.mark.parametrize(
    ("experts", "active", "message"),
    [
        (7, 2, "96 neurons cannot be divided into 7"),
        (1, 1, "of at least 2"),
        (8, 0, "from 1 to 8 experts can be active, got 0"),
        (8, 9, "got 9"),
    ],
)
def test_impossible_divisions_are_refused(dense, experts, active, message):
    with pytest.raises(ValueError, match=message):
        commands.check(dense, experts, active)


def test_other_architectures_are_refused():
    with pytest.raises(ValueError, match="only Llama models without biases can be split, and this is a qwen2"):
        commands.check(make_tiny("qwen2"), 8, 4)


def test_perplexity_is_that_of_the_model_s_own_loss(dense, texts):
    losses = [float(dense(text.unsqueeze(0), labels=text.unsqueeze(0)).loss) for text in texts]
    assert perplexity(dense, texts) == pytest.approx(float(torch.tensor(losses).mean().exp()), rel=1e-5)


def test_texts_to_make_and_to_judge_a_model_are_different():
    fit, held = (batch(Tokenizer(), 5, 100, held_out) for held_out in (False, True))
    assert fit.shape == held.shape == (5, 100)
    assert not {tuple(text.tolist()) for text in fit} & {tuple(text.tolist()) for text in held}
    with pytest.raises(ValueError, match=r"between 1 and \d+ texts of 100 tokens can be read, got 1000"):
        batch(Tokenizer(), 1000, 100, held_out=True)


@pytest.fixture
def tiny(monkeypatch, dense):
    """Make commands use a tiny model; its tokenizer has nothing to save."""
    monkeypatch.setattr(Tokenizer, "save_pretrained", lambda self, folder: None, raising=False)
    monkeypatch.setattr(commands, "load_model", lambda name: (dense, Tokenizer()))


def test_the_commands(tiny, tmp_path, capsys):
    folder = tmp_path / "new" / "moefied"
    commands.make(folder, active=4, documents=4, length=32)
    assert [path.name for path in folder.parent.iterdir()] == ["moefied"]
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_experts_per_tok == 4
    commands.compared(folder, documents=2, length=32)
    shown = capsys.readouterr().out
    rows = re.findall(r"(dense|\d of 8) +│ +([\d.]+) +│ +([\d.]+)", shown)
    assert [name for name, *_ in rows] == ["dense", *(f"{active} of 8" for active in range(8, 0, -1))]
    assert rows[1][1:] == (rows[0][1], "1.00") and rows[-1][1] != rows[0][1]
    assert float(re.findall(r"all experts: ([\d.e-]+)", shown)[0]) < 1e-2


def test_an_existing_folder_is_left_alone(tiny, tmp_path, capsys):
    with pytest.raises(commands.typer.Exit):
        commands.make(tmp_path)
    assert "exists: name a new folder" in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_a_folder_that_is_missing_is_named(tiny, tmp_path, capsys):
    with pytest.raises(commands.typer.Exit):
        commands.compared(tmp_path / "nothing")
    assert "there is no folder" in capsys.readouterr().err


def test_a_folder_appears_whole_or_not_at_all(tiny, tmp_path, monkeypatch):
    def fail(self, folder):
        raise OSError("no space left")

    monkeypatch.setattr(Tokenizer, "save_pretrained", fail)
    with pytest.raises(commands.typer.Exit):
        commands.make(tmp_path / "moefied", documents=2, length=16)
    assert not any(tmp_path.iterdir())


def test_the_real_model_is_the_dense_one_with_all_experts(smollm):
    """However its neurons are divided, and whichever experts are preferred."""
    dense, tokenizer = smollm
    generator, splits = torch.Generator().manual_seed(0), []
    for _ in dense.model.layers:
        neurons = torch.randperm(1536, generator=generator).view(8, 192)
        splits.append(Split(neurons, torch.randn(8, 576, generator=generator) / 24))
    mixture = assembled(dense, splits, 8)
    assert largest_difference(dense, mixture, batch(tokenizer, 1, 100, held_out=True)) < 1e-3
