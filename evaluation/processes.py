"""Which of several processes this is, as torchrun and accelerate say it."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """This process among those of a run.

    Parameters
    ----------
    rank : int
        From 0, over all machines.
    world : int
        How many there are.
    local_rank : int
        From 0, on this machine.
    """

    rank: int
    world: int
    local_rank: int

    def device(self) -> str:
        """Return the device for this process: a GPU of its own, or the CPU."""
        import torch

        return f"cuda:{self.local_rank}" if torch.cuda.is_available() else "cpu"


def this_process() -> Place:
    """Return the place of this process, from the variables that torchrun and ``accelerate launch`` set."""
    rank, world, local = (int(os.environ.get(name, default)) for name, default in _VARIABLES)
    return Place(rank, world, local)


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
