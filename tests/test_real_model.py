"""The real model: routing by the prior stays close to the full cache, and does so the same way every time."""

from __future__ import annotations

import statistics

import pytest
import torch
from kvpress.utils import compute_n_kept
from transformers import DynamicCache

from benchmarks.shared_prefill import SharedPrefill
from benchmarks.tasks import KINDS, SampleMaker
from pikvpress import DEFAULT_EXPERTS, MoERouterPress
from pikvpress.experts import make_experts
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
    heads = [weights for stats in press.get_stats()["layer_stats"].values() for weights in stats["expert_weights"]]
    assert len(heads) == 90
    assert len({tuple(round(weight, 3) for weight in weights) for weights in heads}) > 45, "heads are routed alike"


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


def test_the_prior_is_closer_to_the_full_cache_than_its_experts_are_on_average(smollm):
    """A small sample of what `python -m benchmarks.fidelity` measures."""
    model, tokenizer = smollm
    maker = SampleMaker(tokenizer, 500, seed=123)
    presses = {expert.name: expert.press for expert in make_experts(DEFAULT_EXPERTS, None)}
    presses["routed"] = MoERouterPress()
    divergence: dict[str, list[float]] = {name: [] for name in presses}
    for kind in KINDS:
        sample = maker.make(kind)
        shared = SharedPrefill(model, sample.context)
        full = shared.log_probabilities(shared.cache(None), sample.future)
        for name, press in presses.items():
            press.compression_ratio = 0.75
            other = shared.log_probabilities(shared.cache(press), sample.future)
            divergence[name].append((full.exp() * (full - other)).sum(dim=-1).mean().item())
    experts = [statistics.mean(divergence[name]) for name in DEFAULT_EXPERTS]
    assert statistics.mean(divergence["routed"]) < 0.75 * statistics.mean(experts)


def test_sharing_a_prefill_changes_nothing(smollm, ids):
    model, _ = smollm
    shared = SharedPrefill(model, ids[0].tolist())
    for press in (None, MoERouterPress(0.5)):
        alone, reused = prefill(model, ids, press), shared.cache(press)
        assert isinstance(reused, DynamicCache)
        for one, other in zip(alone.layers, reused.layers, strict=True):
            torch.testing.assert_close(one.keys, other.keys)
