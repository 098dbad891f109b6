"""What is wrong on one rank, or on all, must end in an error on every rank."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from unittest.mock import patch

import torch
import torch.distributed as dist

from pikvpress import FolderStore, MoERouterPress, PiKVCache, PiKVPress, SaliencyPress, models
from pikvpress.cache import ShardedPiKVCache
from pikvpress.calibration import calibrate
from pikvpress.saliency_features import num_features
from tests.parallel.cases import HEADS, SIZE, Run, random


def message(case: Callable[[Run], object], run: Run) -> str:
    """Return the error that a case ends in, or nothing."""
    try:
        case(run)
    except ValueError as error:
        return str(error)
    return ""


def _not_finite_on_the_last_rank(run: Run) -> None:
    last = dist.get_rank() == dist.get_world_size() - 1
    weight = models.attention_layers(run.model)[1].v_proj.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] = torch.nan if last else weight[0, 0]
    try:
        run(MoERouterPress(0.5, gates=None))
    finally:
        with torch.no_grad():
            weight.copy_(before)


def _another_dtype_on_rank_1(run: Run) -> None:
    if dist.get_rank() == 1:
        run.model.to(torch.bfloat16)
    try:
        run(PiKVPress(0.5, gates=None), PiKVCache())
    finally:
        run.model.to(torch.float32)


def _weights_of_own_heads(run: Run) -> None:
    own = random(2, HEADS // dist.get_world_size(), num_features(SIZE), seed=1)
    run(SaliencyPress(0.5, own))


def _cut_heads(run: Run) -> None:
    run.of("four")(MoERouterPress(0.5, gates=None))


def _gates_found_on_rank_0(run: Run) -> None:
    folder = str(run.folder / "found") if dist.get_rank() == 0 else "nowhere"
    with patch.dict(os.environ, {"PIKVPRESS_GATES": folder}):
        run(None, PiKVCache(window=16, scheduler="saliency", max_tokens=170))


def _cache_of_one_process(run: Run) -> None:
    cache = PiKVCache()
    cache.update(torch.ones(1, HEADS, 5, SIZE), torch.ones(1, HEADS, 5, SIZE), 0)
    run(None, cache)


def _read_into_a_store(run: Run) -> None:
    with FolderStore(run.folder / "store").reading(run.model):
        pass


CASES: Mapping[str, Callable[[Run], object]] = {
    "NaN on one rank": _not_finite_on_the_last_rank,
    "another ratio on one rank": lambda run: run(MoERouterPress(0.5 + 0.1 * (dist.get_rank() == 1), gates=None)),
    "gates on one rank": lambda run: run(MoERouterPress(0.5, gates=run.gates if dist.get_rank() == 0 else None)),
    "gates found on one rank": _gates_found_on_rank_0,
    "another dtype on one rank": _another_dtype_on_rank_1,
    "weights of a rank's heads": _weights_of_own_heads,
    "a cache of one process": _cache_of_one_process,
    "a sharded cache of a split model": lambda run: run(None, ShardedPiKVCache()),
    "a store": _read_into_a_store,
    "calibration": lambda run: calibrate(run.model, None),  # type: ignore[arg-type]
    "cut heads": _cut_heads,
}
