"""What a router press does with a layer: decisions, and refitted values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pikvpress.budgets import Decision
from pikvpress.cache.names import codec
from pikvpress.experts import LayerInput, rows_of
from pikvpress.refit import refit
from pikvpress.routing import AUTO, BoundRouter, joined_decision


def decide(router: BoundRouter, layer: LayerInput, kind: str, ratio: float, refits: bool | str) -> Sequence[Decision]:
    """Return the decisions that can be made after a layer, with refitted values.

    Each row of a padded batch is decided as if it were alone.

    Parameters
    ----------
    router : BoundRouter
        The router for the model.
    layer : LayerInput
        The layer.
    kind : str
        Kind of budgets.
    ratio : float
        Share to remove.
    refits : bool or "auto"
        Whether values are refitted.

    Raises
    ------
    ValueError
        If the layer cannot be scored, a row of a padded batch has no tokens or padding between them, or the budgets are
        decided after the last layer only and the batch is padded.
    """
    rows = rows_of(layer)
    if rows is None:
        decisions = router.rank(layer, kind, ratio)
        return decisions if router.budgets[kind].waits else [_refitted(router, layer, decisions[0], kind, refits)]
    if router.budgets[kind].waits:
        raise ValueError(
            f"the batch is padded, and {kind} budgets are decided for all rows at once, after the last layer: use "
            "budgets='fitted', 'adakv' or 'equal'"
        )
    ranked = router.rank_rows(layer, rows, kind, ratio)
    return [
        joined_decision(
            layer,
            rows,
            [_refitted(router, row.layer, one, kind, refits) for row, one in zip(rows, ranked, strict=True)],
        )
    ]


def _refitted(router: BoundRouter, layer: LayerInput, decision: Decision, kind: str, refits: bool | str) -> Decision:
    """Return a decision on a layer with values that stand in for what is removed, if values are refitted.

    With budgets other than fitted ones, too much of what matters is removed for values to make up for it: by default
    they are then left alone.
    """
    gates = router.gates
    bank = None if gates is None or gates.queries is None else gates.queries[layer.index]
    if not refits or (refits == AUTO and (bank is None or kind != "fitted")):
        return decision
    if bank is not None:
        bank = layer.shard.cut(bank, 0, len(bank) // layer.shard.total)
    codecs = None if decision.codecs is None else [codec(keys) for keys, _ in decision.codecs]
    values = refit(layer, decision.mask(), codecs, bank)
    return replace(decision, layer=replace(decision.layer, values=values))
