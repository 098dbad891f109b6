"""The table of a cache names its scheduler and counts its pages."""

from __future__ import annotations

import torch

from pikvpress import PiKVCache
from pikvpress.cache.layer import PiKVLayer
from pikvpress.cache.table import contents


def columns(table):
    return {str(column.header): [*column.cells] for column in table.columns}


@torch.no_grad()
def test_pages_and_policy(llama, ids):
    cache = PiKVCache(window=32, scheduler="h2o", max_tokens=200)
    for chunk in (ids[:, :200], ids[:, 200:]):
        llama(chunk, past_key_values=cache)
    table = cache.table()
    assert table.title == "PiKVCache, h2o: at most 200 entries a head"
    held = 104 + 300 - 256  # the quota, and what has not left since the last page
    assert columns(table)["entries per head"] == [str(held)] * 2 and columns(table)["of"] == ["300"] * 2
    assert columns(table)["pages per head"] == ["2"] * 2  # 104 entries begin a second page


@torch.no_grad()
def test_without_a_schedule(llama, ids):
    cache = PiKVCache()
    llama(ids, past_key_values=cache)
    table = cache.table()
    assert table.title == "PiKVCache" and "pages per head" not in columns(table)
    assert columns(table)["entries per head"] == ["300"] * 2
    assert contents([PiKVLayer()], None).row_count == 0
