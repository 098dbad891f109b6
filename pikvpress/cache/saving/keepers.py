"""What keeps a layer within its ceiling, and all that it has recorded, as pieces of the layer's section.

Attributes are stored under their names in `Keeper`, as those of layers are in `contents.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pikvpress.cache.choice import CodecChoice, by_head
from pikvpress.cache.codec import Codec
from pikvpress.cache.entries import Entries
from pikvpress.cache.keeper import Keeper
from pikvpress.cache.ledger import Ledger
from pikvpress.cache.page_index import PageIndex
from pikvpress.cache.records import Records
from pikvpress.cache.saving.codecs import CodecTable
from pikvpress.cache.saving.file import Pieces
from pikvpress.cache.saving.tensors import described_tensors, restored_tensors
from pikvpress.cache.schedule import Schedule

STATISTICS = ("observed", "stored_measures", "recent_measures")
PAGES = ("lowest", "highest", "missing")


def described_keeper(keeper: Keeper, table: CodecTable) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Return the description of a keeper and its tensors.

    Raises
    ------
    ValueError
        If a codec cannot be found again by its name, or a scheduler has recorded tensors that files do not hold.
    """
    state, tensors = vars(keeper), {}
    records: Records | None = state["_records"]
    if records is not None:
        ledger = records.ledger
        tensors = {"counts": ledger.counts, "positions": ledger.positions}
        for kind in STATISTICS:
            tensors |= {f"{kind}.{name}": part for name, part in getattr(ledger, kind).items()}
        others = {"totals": ledger.totals, "before": vars(records)["_before"]}
        tensors |= {name: tensor for name, tensor in others.items() if tensor is not None}
    if state["_pages"] is not None:
        tensors |= {f"pages.{name}": getattr(state["_pages"], name) for name in PAGES}
    described, pieces = described_tensors(tensors)
    return {
        "choice": [
            table.number(choice) if isinstance(choice, Codec) else [table.number(codec) for codec in choice]
            for choice in state["_choice"]
        ],
        "fixed": state["_fixed"],
        "origin": state["_origin"],
        "stored": None if records is None else records.ledger.stored,
        "tensors": described,
    }, pieces


def restored_keeper(
    described: dict[str, Any], pieces: Pieces, codecs: Sequence[Codec], heads: int, schedule: Schedule, layer: int
) -> Keeper:
    """Return the keeper that was described so. Nothing is read.

    Parameters
    ----------
    described : dict
        The description.
    pieces : Pieces
        Where its tensors come next.
    codecs : sequence of Codec
        The codecs of the table.
    heads : int
        Number of KV heads of the layer.
    schedule : Schedule
        The schedule of the cache.
    layer : int
        Index of the layer.
    """
    keys, values = (_choice(numbers, codecs) for numbers in described["choice"])
    keeper = Keeper(schedule, layer, (keys, values), Entries())
    keeper.__dict__ |= {"_fixed": int(described["fixed"]), "_origin": int(described["origin"])}
    if described["stored"] is not None:
        tensors = restored_tensors(described["tensors"], pieces)
        statistics: dict[str, Any] = {kind: _named(tensors, f"{kind}.") for kind in STATISTICS}
        others: dict[str, Any] = {"totals": tensors.get("totals"), "stored": int(described["stored"])}
        ledger = Ledger(tensors["counts"], tensors["positions"], **statistics, **others)
        pages = _named(tensors, "pages.")
        keeper.__dict__ |= {
            "_codecs": (by_head(keys, heads), by_head(values, heads)),
            "_records": Records.of(schedule, layer, ledger, tensors.get("before")),
            "_pages": PageIndex(**pages) if pages else None,
        }
    return keeper


def check_keeper(keeper: Keeper, entries: Entries) -> None:
    """Raise a ``ValueError`` if what is recorded is not about the entries that are stored."""
    state = vars(keeper)
    if state["_records"] is None:
        return
    ledger, stretches = keeper.records.ledger, entries.compressed.context[state["_fixed"] :]
    parts = zip([0] * ledger.counts.numel(), *(stretch.counts for stretch in stretches), strict=True)
    counts = ledger.counts.flatten().tolist()
    if counts != [sum(part) for part in parts] or len(ledger.positions) != sum(counts) or max(counts) != ledger.stored:
        raise ValueError(f"the records of a scheduler are about {counts} entries of each head, not those that are held")


def _choice(numbers: list[int] | int, codecs: Sequence[Codec]) -> CodecChoice:
    return codecs[numbers] if isinstance(numbers, int) else [codecs[number] for number in numbers]


def _named(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)}
