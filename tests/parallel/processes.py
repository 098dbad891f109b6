"""Several processes that share a model by tensor parallelism, forked from one that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.parallel import bad_input, cases

SECONDS = 100  # after which ranks that wait for each other give up


def run_all(sizes: tuple[int, ...], folder: Path) -> dict[int, list[dict[str, Any]]]:
    """Run all cases with each number of processes, and return their results by number and rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.parallel.processes"])
    found = {}
    for size in sizes:
        ranks = [context.Process(target=_work, args=(rank, size, folder), daemon=True) for rank in range(size)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(SECONDS)
        codes = [process.exitcode for process in ranks]
        for process in ranks:
            process.kill()
        assert codes == [0] * size, f"{size} processes ended with {codes}"
        found[size] = [torch.load(folder / f"{size}-{rank}.pt", weights_only=False) for rank in range(size)]
    return found


def _work(rank: int, size: int, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    limit = timedelta(seconds=SECONDS)
    meeting = f"file://{folder}/meeting-{size}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size, timeout=limit)
    run = cases.Run(cases.load(folder / "model", "auto"), folder)
    found: dict[str, Any] = {name: case(run) for name, case in cases.CASES.items()}
    found["errors"] = {name: bad_input.message(case, run) for name, case in bad_input.CASES.items()}
    torch.save(found, folder / f"{size}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
