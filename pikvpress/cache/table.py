"""The contents of a cache as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.cache.layer import PiKVLayer
from pikvpress.cache.schedule import Schedule
from pikvpress.cache.tiers import Tiers


def contents(layers: Sequence[PiKVLayer], schedule: Schedule | None, tiers: Tiers | None = None) -> Table:
    """Return the contents of layers, one row each.

    Parameters
    ----------
    layers : sequence of PiKVLayer
        The layers; those that hold nothing are left out.
    schedule : Schedule, optional
        The schedule of the cache. The table then names it, and counts the pages of 64 entries behind the recent window.
    tiers : Tiers, optional
        The tiers of the cache. The table then names them, and says how much of each layer lies on which.
    """
    title = ", ".join(["PiKVCache", *(str(one) for one in (schedule, tiers) if one is not None)])
    pages, places = () if schedule is None else ("pages per head",), () if tiers is None else ("KiB on tiers",)
    table = Table("layer", "entries per head", "of", *pages, "keys", "values", "KiB", *places, title=title)
    for index, layer in enumerate(layers):
        if not layer.is_initialized:
            continue
        counts = [count for row in layer.counts() for count in row]
        cells = [str(index), _span(counts), str(layer.get_seq_length())]
        if schedule is not None:
            cells.append(_span([-(-(count - layer.recent) // PAGE) for count in counts]))
        cells += [*layer.codec_names(), f"{layer.nbytes / 1024:,.1f}"]
        if tiers is not None:
            cells.append(", ".join(f"{tier} {size / 1024:,.1f}" for tier, size in layer.tier_bytes().items() if size))
        table.add_row(*cells)
    return table


def _span(counts: list[int]) -> str:
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"
