"""The contents of a cache as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.cache.layer import PiKVLayer
from pikvpress.cache.schedule import Schedule


def contents(layers: Sequence[PiKVLayer], schedule: Schedule | None) -> Table:
    """Return the contents of layers, one row each.

    Parameters
    ----------
    layers : sequence of PiKVLayer
        The layers; those that hold nothing are left out.
    schedule : Schedule, optional
        The schedule of the cache. The table then names it, and counts the pages of 64 entries behind the recent window.
    """
    title = "PiKVCache" if schedule is None else f"PiKVCache, {schedule}"
    pages = () if schedule is None else ("pages per head",)
    table = Table("layer", "entries per head", "of", *pages, "keys", "values", "KiB", title=title)
    for index, layer in enumerate(layers):
        if not layer.is_initialized:
            continue
        counts = [count for row in layer.counts() for count in row]
        cells = [str(index), _span(counts), str(layer.get_seq_length())]
        if schedule is not None:
            cells.append(_span([-(-(count - layer.entries.tail.length) // PAGE) for count in counts]))
        table.add_row(*cells, *layer.codec_names(), f"{layer.nbytes / 1024:,.1f}")
    return table


def _span(counts: list[int]) -> str:
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"
