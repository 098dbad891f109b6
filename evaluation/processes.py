"""Rank of this process, from the variables of torchrun and accelerate."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """The place of this process in a run.

    Parameters
    ----------
    rank : int
        Rank over all machines, from 0.
    world : int
        Number of processes.
    local_rank : int
        Rank on this machine, from 0.
    """

    rank: int
    world: int
    local_rank: int

    def device(self) -> str:
        """Return the device for this process: its own GPU, or the CPU."""
        import torch

        return f"cuda:{self.local_rank}" if torch.cuda.is_available() else "cpu"


def this_process() -> Place:
    """Return the place of this process, from the variables that torchrun and ``accelerate launch`` set."""
    rank, world, local = (int(os.environ.get(name, default)) for name, default in _VARIABLES)
    return Place(rank, world, local)


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
