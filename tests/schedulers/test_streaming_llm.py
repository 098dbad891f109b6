"""StreamingLLM keeps sinks and the latest entries, as a dense implementation does."""

from __future__ import annotations

import pytest

from pikvpress.schedulers import StreamingLLMScheduler
from tests.schedulers.dense import per_head
from tests.schedulers.streams import compare

SEEDS = [range(first, first + 10) for first in range(0, 50, 10)]


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_it_keeps_what_the_dense_rule_keeps(seeds):
    for seed in seeds:
        sinks = seed % 7
        score = lambda entry, sinks=sinks: 10**9 if entry.position < sinks else entry.position  # noqa: E731
        compare(seed, StreamingLLMScheduler(sinks=sinks), per_head(score), quota=64 + seed)


def test_four_sinks_and_a_window():
    cache, _ = compare(3, "streaming_llm", per_head(lambda e: 10**9 if e.position < 4 else e.position), quota=70)
    held = cache.layers[0].keeper.records.ledger.positions.tolist()[:70]
    assert held[:4] == [0, 1, 2, 3] and held[4:] == list(range(held[4], held[4] + 66))


def test_a_negative_number_of_sinks_is_refused():
    with pytest.raises(ValueError, match="sinks is the number of first entries that stay and must be at least 0"):
        StreamingLLMScheduler(sinks=-1)
