"""What ranks tell each other about a scheduled layer."""

from __future__ import annotations

from unittest.mock import patch

from pikvpress.cache import CODECS
from pikvpress.cache.whole_layer import WholeLayer
from pikvpress.ranks import HeadShard

EXACT, INT4 = (CODECS["exact"],) * 2, (CODECS["int4"],) * 2


def test_all_ranks_reckon_with_the_fullest_and_with_all_bytes_and_codecs():
    own, other = WholeLayer(10, 400, (EXACT,)), WholeLayer(30, 100, (INT4,))
    assert own.joined(None, alike=False) is own is own.joined(HeadShard(1, 0, 1), alike=False)
    with patch.object(HeadShard, "collected", lambda shard, thing: [thing, other]):
        whole = own.joined(HeadShard(2, 0, 1, group="of two"), alike=False)
    assert whole == WholeLayer(30, 500, (EXACT, INT4)) and whole.packs and not own.packs


def test_ranks_that_must_be_alike_send_nothing():
    own = WholeLayer(0, 0, (INT4, EXACT))
    assert own.joined(HeadShard(6, 0, 2, group="of three"), alike=True) == WholeLayer(0, 0, (INT4, EXACT) * 3)
