"""The real model: routing stays close to the full cache, and is the same every time."""

from __future__ import annotations

import statistics

import pytest
import torch
from kvpress.utils import compute_n_kept
from transformers import DynamicCache

from evaluation.answering import log_probabilities
from evaluation.benchmarks.benchmark import Request
from evaluation.benchmarks.fidelity import Fidelity
from evaluation.compressors import PrefilledContext
from evaluation.prompts import encode
from pikvpress import DEFAULT_EXPERTS, MoERouterPress, PiKVCache
from pikvpress.experts import make_experts
from pikvpress.prompts import token_ids
from pikvpress.routers import ROUTERS
from tests.helpers import prefill


@pytest.fixture(scope="module")
def ids(smollm):
    from pikvpress.demo import demo_document

    return smollm[1](demo_document()[0], return_tensors="pt").input_ids[:, :600]


@pytest.mark.parametrize("router", ROUTERS)
def test_every_router_reaches_its_ratio_in_every_layer(smollm, ids, router):
    press = MoERouterPress(0.75, router_type=router)
    cache = prefill(smollm[0], ids, press)
    assert [layer.keys.shape[2] for layer in cache.layers] == [compute_n_kept(ids.shape[1], 0.75)] * 30
    assert {tuple(weights) for weights in weights_of(press)} == {(1, 0, 0, 0)}, "one expert for equal budgets"
    fitted = MoERouterPress(0.75, router_type=router, budgets="fitted")
    prefill(smollm[0], ids, fitted)
    blends = [tuple(round(weight, 6) for weight in weights) for weights in weights_of(fitted) if max(weights) < 1]
    assert len(blends) >= 10  # in most layers, only one expert is worth its time
    assert len(set(blends)) > 0.9 * len(blends), "most heads should have different blends"


def weights_of(press):
    heads = [weights for stats in press.get_stats()["layer_stats"].values() for weights in stats["expert_weights"]]
    assert len(heads) == 90
    return heads


def test_half_precision_keeps_nearly_the_same_tokens(ids):
    from pikvpress.default_model import load_model

    kept = {}
    for dtype in (torch.float32, torch.bfloat16):
        model, _ = load_model(dtype=dtype)
        cache = prefill(model, ids, MoERouterPress(0.5))
        assert cache.layers[0].keys.dtype == dtype
        kept[dtype] = cache.layers[0].keys.float()
    close = (kept[torch.float32].unsqueeze(3) - kept[torch.bfloat16].unsqueeze(2)).norm(dim=-1).amin(dim=-1)
    assert (close < 0.02 * kept[torch.float32].norm(dim=-1)).float().mean() > 0.9


def test_routers_are_closer_to_the_full_cache_than_their_experts(smollm):
    """A small sample of what the fidelity benchmark measures."""
    model, tokenizer = smollm
    presses = {expert.name: expert.press for expert in make_experts(DEFAULT_EXPERTS, None)}
    presses |= {"prior": MoERouterPress(gates=None), "fitted budgets": MoERouterPress(budgets="fitted")}
    for press in presses.values():
        press.compression_ratio = 0.75
    divergence: dict[str, list[float]] = {name: [] for name in presses}
    for row in Fidelity().rows(Request(tokenizer, length=550, samples=1, seed=123)):
        context, question = encode(tokenizer, row)
        future = [*question, *token_ids(tokenizer, row.answer)]
        shared = PrefilledContext(model, context)
        full, *others = log_probabilities(
            model, [shared.compress(press) for press in (None, *presses.values())], future
        )
        for name, other in zip(presses, others, strict=True):
            divergence[name].append((full.exp() * (full - other)).sum(dim=-1).mean().item())
    experts = [statistics.mean(divergence[name]) for name in DEFAULT_EXPERTS]
    assert statistics.mean(divergence["prior"]) < 0.75 * statistics.mean(experts)
    assert statistics.mean(divergence["fitted budgets"]) < 0.3 * min(experts)


@torch.no_grad()
def test_an_uncompressed_pikv_cache_generates_the_same_200_tokens(smollm, ids):
    model, _ = smollm
    length = {"max_new_tokens": 200, "min_new_tokens": 200, "do_sample": False}
    generated = [
        model.generate(ids, attention_mask=torch.ones_like(ids), past_key_values=cache, **length)
        for cache in (DynamicCache(), PiKVCache())
    ]
    assert torch.equal(*generated)


def test_sharing_a_prefill_changes_nothing(smollm, ids):
    model, _ = smollm
    shared = PrefilledContext(model, ids[0].tolist())
    for press in (None, MoERouterPress(0.5)):
        alone, reused = prefill(model, ids, press), shared.compress(press)
        for one, (keys, _) in zip(alone.layers, reused.layers, strict=True):
            torch.testing.assert_close(one.keys, keys)
