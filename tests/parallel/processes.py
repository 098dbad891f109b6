"""Several processes on this machine, forked from one that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.parallel import bad_input, cases, page, sharded

SECONDS = 100  # after which ranks that wait for each other give up


def run_on_ranks(work: Callable[[Path], Any], size: int, folder: Path) -> list[Any]:
    """Run a function of this module with so many processes, and return what it returns, by rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ranks = [context.Process(target=_on_rank, args=(work, rank, size, folder), daemon=True) for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(SECONDS)
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
    assert codes == [0] * size, f"{size} processes ended with {codes}"
    return [torch.load(folder / f"{size}-{rank}.pt", weights_only=False) for rank in range(size)]


def _on_rank(work: Callable[[Path], Any], rank: int, size: int, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    limit = timedelta(seconds=SECONDS)
    meeting = f"file://{folder}/meeting-{size}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size, timeout=limit)
    torch.save(work(folder), folder / f"{size}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def split_model(folder: Path) -> dict[str, Any]:
    """Run all cases on a model that is split over the processes."""
    run = cases.Run(cases.load(folder / "model", "auto"), folder)
    found: dict[str, Any] = {name: case(run) for name, case in cases.CASES.items()}
    found["page"] = page.printed(folder, 0)
    found["errors"] = {name: bad_input.message(case, run) for name, case in bad_input.CASES.items()}
    return found


def split_cache(folder: Path) -> dict[Any, Any]:
    """Run all cases on a cache whose context is split over 1, 2, 3 and so on of the processes, and on one cache."""
    everyone, rank = range(1, dist.get_world_size() + 1), dist.get_rank()
    groups = {size: dist.new_group(list(range(size))) for size in everyone}
    found: dict[Any, Any] = {size: sharded.on_ranks(groups[size]) for size in everyone if rank < size}
    if rank == 0:
        found["alone"] = sharded.alone()
    return found | {"errors": sharded.errors(None), "page": page.printed(folder, 1)}
