"""The predicted divergence against what really happens to the model's predictions."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from pikvpress import models
from pikvpress.calibration.collect import RATIOS, Record, collect, described, look, save
from pikvpress.calibration.measure import divergence, read
from pikvpress.calibration.situations import Situation
from pikvpress.calibration.student import predict
from pikvpress.calibration.teacher import read_future
from pikvpress.experts import make_experts
from tests.conftest import make_tiny

CONTEXT, FUTURE = 90, 12


@pytest.fixture(scope="module", params=["llama", "phi3", "qwen3"])
def case(request):
    model = make_tiny(request.param, seed=3)
    ids = torch.randint(1, 500, (CONTEXT + FUTURE,), generator=torch.Generator().manual_seed(1)).tolist()
    return model, tuple(ids[:CONTEXT]), tuple(ids[CONTEXT:])


def full_cache(model, context):
    cache = DynamicCache()
    with torch.no_grad():
        model(input_ids=torch.tensor([context]), past_key_values=cache)
    return cache


def readings(model, cache, futures):
    return [
        read(
            cache.layers[index].keys[0],
            cache.layers[index].values[0],
            [(f.queries, f.keys, f.values, f.gradients) for f in (layers[index] for layers in futures)],
            attention.scaling,
        )
        for index, attention in enumerate(models.attention_layers(model))
    ]


def test_futures_attend_as_the_model_does(case):
    model, context, future = case
    cache = full_cache(model, context)
    seen = {}

    def keep(index):
        return lambda module, args: seen.update({index: args[0][0]})

    attentions = models.attention_layers(model)
    handles = [layer.o_proj.register_forward_pre_hook(keep(i)) for i, layer in enumerate(attentions)]
    with torch.no_grad():
        model(input_ids=torch.tensor([context + future]))
    for handle in handles:
        handle.remove()
    futures = [read_future(model, cache, future, 1, torch.Generator())]
    for index, reading in enumerate(readings(model, cache, futures)):
        by_head = seen[index][-FUTURE:].unflatten(-1, (4, -1)).transpose(0, 1).unflatten(0, (2, 2)).flatten(1, 2)
        torch.testing.assert_close(reading.output, by_head, atol=1e-4, rtol=1e-3)
    assert cache.get_seq_length() == CONTEXT
    assert not any(p.grad is not None for p in model.parameters())


def test_the_divergence_of_small_changes_is_predicted(case):
    """Remove one key of one head and compare with the KL divergence of the model's own predictions."""
    model, context, future = case
    model = model.double()
    cache = full_cache(model, context)
    futures = [read_future(model, cache, future, 400, torch.Generator().manual_seed(0))]
    predicted, happened = [], []
    with torch.no_grad():
        (base,) = predict(model, cache, {}, [future])
        for index, reading in enumerate(readings(model, cache, futures)):
            for head in range(2):
                for removed in (5, 40, 80):
                    order = torch.tensor([[i for i in range(CONTEXT) if i != removed]] * 2)
                    predicted.append(divergence(reading, order, [CONTEXT - 1])[head, 0].item())
                    kept = torch.ones(2, CONTEXT, dtype=torch.float64)
                    kept[head, removed] = 0
                    (changed,) = predict(model, cache, {index: kept}, [future])
                    happened.append((base.exp() * (base - changed)).sum().item())
    model.float()
    predicted, happened = torch.tensor(predicted), torch.tensor(happened)
    assert torch.corrcoef(torch.stack([predicted.log(), happened.log()]))[0, 1] > 0.9
    assert (predicted / happened).log().abs().mean() < 0.25


def test_a_student_that_keeps_everything_is_the_teacher(case):
    model, context, future = case
    cache = full_cache(model, context)
    with torch.no_grad():
        whole = model(input_ids=torch.tensor([context + future])).logits[0, -FUTURE:].log_softmax(dim=-1)
        everything = {index: torch.ones(2, CONTEXT) for index in range(2)}
        short, found = predict(model, cache, everything, [future[:3], future])
        torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(short, whole[:3], atol=1e-4, rtol=1e-4)
        half = {0: torch.ones(2, CONTEXT) * (torch.arange(CONTEXT) < 45)}
        assert (predict(model, cache, half, [future])[0] - whole).abs().max() > 1e-3
    assert model.config._attn_implementation == "sdpa"
    assert not hasattr(models.attention_layers(model)[0], "kept_share")


def test_what_is_collected_is_read_again(tmp_path, llama):
    ids = torch.randint(1, 500, (CONTEXT + FUTURE,), generator=torch.Generator().manual_seed(1)).tolist()
    situation = Situation("facts", tuple(ids[:CONTEXT]), (tuple(ids[CONTEXT:]), tuple(ids[CONTEXT : CONTEXT + 5])))
    experts = make_experts(["keydiff", "compactor"], None)
    scaling = [layer.scaling for layer in models.attention_layers(llama)]
    save(tmp_path / "one", collect(llama, situation, 0), **described("facts", scaling, 1.5))
    save(tmp_path / "seen", look(llama, situation, experts))
    assert Record(tmp_path / "one").layer(1).ranks.shape == (len(RATIOS), 0, 0, CONTEXT)
    record = Record(tmp_path / "one", tmp_path / "seen")
    assert (record.kind, record.seconds, record.layers) == ("facts", 1.5, [0, 1])
    layer = record.layer(1)
    assert layer.ranks.shape == (len(RATIOS), 2, 2, CONTEXT)
    assert layer.reading.attention.shape == (2, 2 * (FUTURE + 5), CONTEXT)
    cache = full_cache(llama, situation.context)
    torch.testing.assert_close(layer.reading.values, cache.layers[1].values[0], atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(layer.keys, cache.layers[1].keys[0], atol=1e-2, rtol=1e-2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "seen"]
    for name in ("seen", "one"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
        with pytest.raises(ValueError, match=f"{name} is not a whole measurement"):
            Record(tmp_path / "one", tmp_path / "seen")
    with pytest.raises(ValueError, match="too short for compactor"):
        look(llama, Situation("facts", tuple(ids[:12]), (tuple(ids[50:60]),)), experts)
