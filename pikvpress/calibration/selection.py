"""Which experts are worth their cost: those that a static blend of all candidates leans on."""

from __future__ import annotations

from collections.abc import Sequence

from pikvpress.calibration.collect import Record
from pikvpress.calibration.training import EQUAL, Progress, train
from pikvpress.routers import Router

WORTH = 0.02  # least share of the blend, averaged over heads, for which an expert is computed at all
FEWEST = 2  # a router of one expert would route nothing


def choose_experts(
    router: Router, records: Sequence[Record], most: int, epochs: int, seed: int, progress: Progress
) -> list[int]:
    """Return the experts to route to, in the order of the candidates: at least two, if there are two.

    Parameters
    ----------
    router : Router
        Unfitted and static, for all candidates; fitted here, at equal budgets.
    records : sequence of Record
        What it is fitted on; none of those that decisions are reported on.
    most : int
        How many are chosen at most; beyond two only if they have a share of 2 %.
    epochs, seed : int
        How long, and in which order.
    progress : callable
        Told of every step.
    """
    train(router, [router.static], records, EQUAL, epochs, seed, progress)
    used = sorted({int(index) for record in records for index in record.layers})
    shares = router.static.detach()[used].softmax(dim=-1).mean(dim=(0, 1))
    best = shares.argsort(descending=True)[:most]
    return sorted(int(expert) for place, expert in enumerate(best) if place < FEWEST or shares[expert] >= WORTH)
