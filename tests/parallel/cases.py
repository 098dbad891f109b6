"""What is run on one process and on several, with the same results: presses, caches, codecs and schedulers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from kvpress import ComposedPress, KeyRerotationPress, KnormPress
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    PreTrainedModel,
    Qwen3Config,
)

from pikvpress import FastVPress, MoERouterPress, PerLayerPress, PiKVCache, PiKVPress, SaliencyPress, models
from pikvpress.cache import Bases
from pikvpress.experts import available_experts
from pikvpress.gates import Gates, file_name, key, load_gates, save_gates
from pikvpress.ranks import HeadShard
from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routers.feature_names import feature_names
from pikvpress.routing import BoundRouter
from pikvpress.saliency_features import num_features
from pikvpress.schedulers import DuoScheduler, SaliencyScheduler
from tests.conftest import SIZES
from tests.parallel import page

LAYERS, HEADS, SIZE, VOCABULARY = 2, 12, 16, 516  # all are multiples of the numbers of ranks: 2, 3 and 4
EXPERTS = ["saliency", "compactor", "expected_attention", "keydiff"]
SHARES = (1.0, 0.5, 0.25, 0.05)
SCHEDULED = 400  # entries that a head of a cache may hold that a press has compressed before
PAIRS = (("exact", "exact"), ("int8", "int8"), ("int4", "int4"), ("rot3", "rot3"))


def make_model(kv_heads: int = HEADS, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    heads = {"num_attention_heads": 2 * kv_heads, "num_key_value_heads": kv_heads, "head_dim": SIZE}
    model = LlamaForCausalLM(LlamaConfig(**SIZES | heads | {"vocab_size": VOCABULARY}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter.mul_(8)  # attention that is not flat
    return model.eval()


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_gates(model: PreTrainedModel) -> Gates:
    """Return gates that treat every head differently."""
    names = feature_names(EXPERTS)
    router = ROUTERS["pikv"]([1.0] * len(EXPERTS), names, LAYERS, HEADS, RouterSettings(top_k=3))
    state = {name: tensor.clone() for name, tensor in router.state_dict().items()}
    state["static"] = random(LAYERS, HEADS, len(EXPERTS), seed=1)
    routers = {
        key("pikv", kind): {name: tensor.clone() for name, tensor in state.items()} for kind in ("equal", "fitted")
    }
    steep = random(1, LAYERS, HEADS, len(PAIRS), 1, seed=2).exp()
    coarse = random(1, LAYERS, HEADS, 1, 1, seed=3).exp() * torch.tensor([0.0, 0.01, 0.1, 0.5])[:, None]
    curves = steep * torch.tensor([0.0, 1.0, 2.0, 4.0]) + coarse
    features = num_features(SIZE)
    return Gates(
        models.fingerprint(models.attention_layers(model)[0]),
        EXPERTS,
        routers,
        curves[..., 0, :].contiguous(),
        SHARES,
        (0.5,),
        curves,
        PAIRS,
        saliency=random(LAYERS, HEADS, features, seed=4),
        saliency_hidden=random(LAYERS, HEADS, features + SIZES["hidden_size"], seed=5),
        queries=random(LAYERS, 2 * HEADS, 32, SIZE, seed=6).half(),
    )


def make_bases(model: PreTrainedModel, rank: int = 12) -> Bases:
    def side(seed: int) -> dict[str, torch.Tensor]:
        directions = torch.linalg.qr(random(LAYERS, HEADS, SIZE, rank, seed=seed)).Q.mT
        mean, spread = random(LAYERS, HEADS, SIZE, seed=seed) / 9, torch.ones(LAYERS, HEADS, rank)
        return {"mean": mean.half(), "directions": directions.contiguous().half(), "spread": spread.half()}

    return Bases(models.fingerprint(models.attention_layers(model)[0]), side(1), side(2))


def write(folder: Path) -> None:
    """Write the models that all processes load, and gates for the first one."""
    model = make_model()
    model.save_pretrained(folder / "model")
    make_model(kv_heads=4).save_pretrained(folder / "four")
    sizes = SIZES | {"vocab_size": VOCABULARY, "hidden_size": HEADS * SIZE}
    phi3 = Phi3Config(**sizes | {"num_attention_heads": HEADS, "num_key_value_heads": HEADS})
    AutoModelForCausalLM.from_config(phi3).save_pretrained(folder / "phi3")
    sizes = SIZES | {"vocab_size": VOCABULARY, "num_attention_heads": 2 * HEADS, "num_key_value_heads": HEADS}
    AutoModelForCausalLM.from_config(Qwen3Config(**sizes, head_dim=SIZE)).save_pretrained(folder / "qwen3")
    gates = make_gates(model)
    save_gates(folder / "gates.safetensors", gates)
    (folder / "found").mkdir()
    save_gates(folder / "found" / file_name(gates.model), gates)
    page.write(folder)


def load(path: Path, plan: str | None) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path, tp_plan=plan).eval()


def context(length: int = 260) -> torch.Tensor:
    return torch.randperm(VOCABULARY - 1, generator=torch.Generator().manual_seed(7))[None, :length] + 1


class Run:
    """One model in one process, and how it reads with presses and caches."""

    def __init__(self, model: PreTrainedModel, folder: Path):
        self.model, self.folder = model, folder
        self.gates = folder / "gates.safetensors"

    @torch.no_grad()
    def __call__(self, press: Any, cache: Any = None, chunks: tuple[int, ...] = (260,)) -> dict[str, Any]:
        """Return the logits of a question, the entries that this process holds, and the plan of the whole model."""
        cache = DynamicCache() if cache is None else cache
        ids, kept, decide = context(sum(chunks)), [], BoundRouter.rank

        def rank(router: BoundRouter, *args: Any) -> Any:
            decisions = decide(router, *args)
            kept.extend(decision.mask() for decision in decisions)
            return decisions

        with patch.object(BoundRouter, "rank", rank), gathers() as sizes:
            if press is None:
                logits = self._read(ids, cache, chunks)
            else:
                with press(self.model):
                    logits = self._read(ids, cache, chunks)
        question = self.model(input_ids=context()[:, :5], past_key_values=cache).logits
        found = {"logits": [*logits, question], "masks": kept, "gathers": sizes}
        if isinstance(cache, PiKVCache):
            found |= {"counts": [layer.counts() for layer in cache.layers], "nbytes": cache.nbytes}
        else:
            found["values"] = [layer.values for layer in cache.layers]
        if isinstance(press, MoERouterPress | PiKVPress):
            found["plan"] = asdict(press.plan) | {"press_seconds": 0, "prefill_seconds": 0}
        return found

    def _read(self, ids: torch.Tensor, cache: Any, chunks: tuple[int, ...]) -> list[torch.Tensor]:
        return [self.model(input_ids=part, past_key_values=cache).logits for part in ids.split(chunks, dim=1)]

    def of(self, name: str) -> Run:
        """Return a run of another model, which is split if there are several processes."""
        return Run(load(self.folder / name, "auto" if dist.is_initialized() else None), self.folder)

    def split_by_pytorch(self) -> Run:
        """Return a run of the same model, split without transformers."""
        model = load(self.folder / "model", None)
        if dist.is_initialized():
            mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
            plan = {name: ColwiseParallel() for name in ("q_proj", "k_proj", "v_proj")} | {"o_proj": RowwiseParallel()}
            for attention in models.attention_layers(model):
                parallelize_module(attention, mesh, plan)
        return Run(model, self.folder)

    def in_float64(self) -> Run:
        """Return a run of the same model in which sums in another order cannot make a number round to another code."""
        return Run(self.of("model").model.double(), self.folder)

    def saliency(self, ratio: float) -> SaliencyPress:
        gates = self.fitted()
        return SaliencyPress(ratio, gates.saliency, gates.saliency_hidden)

    def fitted(self) -> Gates:
        return load_gates(self.gates)


@contextmanager
def gathers() -> Iterator[list[int]]:
    """Record how many numbers this process sends whenever heads of all ranks are gathered."""
    sizes: list[int] = []
    gathered = HeadShard.gathered

    def counted(shard: HeadShard, numbers: torch.Tensor, dim: int) -> torch.Tensor:
        if not shard.is_whole:
            sizes.append(numbers.numel())
        return gathered(shard, numbers, dim)

    with patch.object(HeadShard, "gathered", counted):
        yield sizes


def scheduled(scheduler: Any, **ceiling: Any) -> Callable[[Run], dict[str, Any]]:
    def run(run: Run) -> dict[str, Any]:
        made = scheduler(run.fitted()) if callable(scheduler) else scheduler
        return run(None, PiKVCache(window=16, scheduler=made, **ceiling), chunks=(150, 100, 1, 99))

    return run


def scheduled_after_a_press(run: Run) -> dict[str, Any]:
    """Schedule a cache whose heads have different lengths, of which every rank has other ones."""
    cache = PiKVCache(window=16)
    found = run(MoERouterPress(0.6, gates=run.gates), cache)
    cache.schedule("adakv", max_tokens=SCHEDULED)
    with torch.no_grad():
        for part in context(500).split(50, dim=1):
            run.model(input_ids=part, past_key_values=cache)
        cache.batch_select_indices(torch.tensor([0, 0]))
    quotas = [layer.keeper._quota(layer.entries, 500) for layer in cache.layers]
    return found | {"quotas": quotas, "held": [sum(layer.counts()[1]) for layer in cache.layers]}


CASES: Mapping[str, Callable[[Run], dict[str, Any]]] = {
    "nothing": lambda run: run(None),
    "all experts by the prior": lambda run: run(MoERouterPress(0.5, gates=None, experts=available_experts(), top_k=6)),
    "a router that balances heads": lambda run: run(MoERouterPress(0.5, gates=None, router_type="eplb", top_k=2)),
    "gates, equal budgets": lambda run: run(MoERouterPress(0.6, gates=run.gates)),
    "gates, fitted budgets": lambda run: run(MoERouterPress(0.6, gates=run.gates), PiKVCache()),
    "fitted budgets, then a scheduler": scheduled_after_a_press,
    "fitted budgets, masked": lambda run: run(MoERouterPress(0.6, gates=run.gates, budgets="fitted")),
    "pyramid": lambda run: run(MoERouterPress(0.6, gates=None, budgets="pyramid")),
    "adakv": lambda run: run(MoERouterPress(0.6, gates=None, budgets="adakv"), PiKVCache()),
    "global": lambda run: run(
        MoERouterPress(0.6, gates=None, experts=["keydiff", "knorm"], budgets="global"), PiKVCache()
    ),
    "all heads on every rank": lambda run: run.of("phi3")(MoERouterPress(0.6, gates=None, budgets="adakv")),
    "normalised keys": lambda run: run.of("qwen3")(MoERouterPress(0.6, gates=None)),
    "split by PyTorch": lambda run: run.split_by_pytorch()(MoERouterPress(0.6, gates=run.gates)),
    "bytes, fitted": lambda run: run.in_float64()(PiKVPress(0.8, gates=run.gates), PiKVCache()),
    "bytes, equal": lambda run: run.in_float64()(PiKVPress(0.9, gates=None), PiKVCache()),
    "while decoding": lambda run: run.in_float64()(
        PiKVPress(0.7, gates=run.gates, decoding=True), PiKVCache(window=16), chunks=(120, 1, 139)
    ),
    "per layer": lambda run: run(PerLayerPress({0: MoERouterPress(0.5, gates=run.gates)}, default=run.saliency(0.5))),
    "composed": lambda run: run(ComposedPress([MoERouterPress(0.3, gates=None), KnormPress(0.3)])),
    "rerotated": lambda run: run(KeyRerotationPress(MoERouterPress(0.3, gates=None, experts=["keydiff", "knorm"]))),
    "saliency": lambda run: run(run.saliency(0.5)),
    "fastv": lambda run: run(FastVPress(0.5, layer=0)),
    "int4 and int2": lambda run: run.in_float64()(None, PiKVCache("int4", "int2", window=16)),
    "rotated": lambda run: run.in_float64()(None, PiKVCache("rot4", "rot3", window=16), chunks=(150, 110)),
    "low rank": lambda run: run.in_float64()(KnormPress(0.3), PiKVCache("rank8+int2", "int8", window=16)),
    "bases": lambda run: run.in_float64()(None, PiKVCache(make_bases(run.model), make_bases(run.model), window=16)),
    "scheduler saliency": scheduled(
        lambda gates: SaliencyScheduler(gates.saliency, random(LAYERS, HEADS, seed=8).exp()), ratio=0.6
    ),
    "scheduler duo": scheduled(lambda gates: DuoScheduler(importance=random(LAYERS, HEADS, seed=9)), max_tokens=200),
    "scheduler quest": scheduled("quest", max_tokens=200),
    "scheduler h2o, bytes": scheduled("h2o", max_bytes=1_400_000),
    **{
        f"scheduler {name}": scheduled(name, max_tokens=170)
        for name in ("streaming_llm", "adakv", "adaptive", "lru", "lru_plus")
    },
}
