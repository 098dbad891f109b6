"""Which entries of a context a rank holds; `test_sharded_cache.py` reads them."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import part as module
from pikvpress.cache.codecs import CODECS, EXACT
from pikvpress.cache.names import codec
from pikvpress.cache.part import STEP, RankPart


@pytest.fixture
def parts(monkeypatch):
    """Return what all of so many ranks hold."""

    def of(ranks, kept, codecs):
        found = []
        for rank in range(ranks):
            monkeypatch.setattr(module.dist, "get_world_size", lambda group: ranks)
            monkeypatch.setattr(module.dist, "get_rank", lambda group, rank=rank: rank)
            found.append(RankPart().own(kept, codecs, 64, torch.float16))
        return found

    return of


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("pair", [("exact", "exact"), ("rot3", "rot4"), ("int4", "int2")])
def test_every_kept_entry_lies_on_one_rank(ranks, pair, parts):
    kept = torch.rand(1, 3, 2000, generator=torch.Generator().manual_seed(1)) < torch.tensor([0.9, 0.5, 0.01])[:, None]
    found = parts(ranks, kept, tuple([CODECS[name]] * 3 for name in pair))
    assert torch.equal(sum(mask.int() for mask, _ in found), kept.int())
    for mask, stored in found:
        for head in range(3):
            held = mask[0, head][kept[0, head]]  # of the head's kept entries
            begins = (held & ~held.roll(1)).nonzero()[:, 0].tolist()
            assert all(begin % STEP == 0 for begin in begins)
            if pair[0] == "rot3" and held.any():
                assert stored[0][head].lead == stored[1][head].lead == int(held[0])


def test_large_heads_are_divided_and_low_rank_ones_are_not(parts):
    kept = torch.ones(1, 2, 4096, dtype=torch.bool)
    found = parts(4, kept, ([codec("rank8"), EXACT], [EXACT, EXACT]))
    counts = [mask[0].sum(dim=-1).tolist() for mask, _ in found]
    assert sorted(low for low, _ in counts) == [0, 0, 0, 4096]
    assert sum(other > 0 for _, other in counts) > 1


def test_a_batch_is_refused(parts):
    with pytest.raises(ValueError, match="not a batch of 2"):
        parts(2, torch.ones(2, 1, 5, dtype=torch.bool), ([EXACT], [EXACT]))
