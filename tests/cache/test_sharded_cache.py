"""A cache on 1 to 4 ranks reads as one cache does."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import ShardedPiKVCache
from tests.parallel import cases
from tests.parallel.processes import run_on_ranks, split_cache
from tests.parallel.sharded import CASES, NEW, NUMBERS

RANKS = 4


def test_a_cache_on_several_ranks_reads_as_one_does(tmp_path):
    """All in one test: the processes are started once."""
    cases.write(tmp_path)
    of_ranks = run_on_ranks(split_cache, RANKS, tmp_path)
    alone = of_ranks[0]["alone"]
    for size in range(1, RANKS + 1):
        of_size = [of_rank[size] for of_rank in of_ranks[:size]]
        for name in CASES:
            check(alone[name], [of_rank[name] for of_rank in of_size], f"{name} on {size} ranks")
        fullest = max(of_rank["everything"]["nbytes"] for of_rank in of_size)
        assert fullest <= 1.2 * alone["everything"]["nbytes"] / size
    for rank, of_rank in enumerate(of_ranks):
        expected = (
            "not a batch of 2",
            "has no scheduler",
            "cannot be saved",
            "cannot be loaded",
            "or stored",
            "scheduler",
        )
        for message, part in zip(of_rank["errors"], expected, strict=True):
            assert part in message
        assert of_rank["page"].startswith(f"rank {rank} holds ")


def check(whole, parts, name):
    """Compare the parts of a cache with the whole one."""
    for part in parts:
        torch.testing.assert_close(part["logits"], whole["logits"], atol=1e-5, rtol=1e-5, msg=lambda m: f"{name}: {m}")
        assert part["tokens"] == whole["tokens"], name
        assert torch.equal(part["logits"], parts[0]["logits"]), f"{name}: ranks drift apart"
        layers = len(whole["counts"])
        assert part["messages"] == layers * [5 * NUMBERS] + layers * NEW * [NUMBERS], name
    for layer, counts in enumerate(whole["counts"]):
        held = [part["counts"][layer] for part in parts]
        assert [sum(heads) for heads in zip(*held, strict=True)] == counts, name


def test_one_process_needs_no_sharded_cache():
    with pytest.raises(ValueError, match="init_process_group"):
        ShardedPiKVCache()
