"""How many keys each head keeps while routers are fitted, and the error curves that determine this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from kvpress.utils import compute_n_kept

from pikvpress.budgets.fitted_counts import fitted_counts
from pikvpress.calibration.measure.cost import divergence
from pikvpress.calibration.measure.record import Record
from pikvpress.calibration.measure.selection import blended_ranks
from pikvpress.calibration.recipe import Recipe
from pikvpress.calibration.steps import Progress
from pikvpress.routers import Router


@dataclass(frozen=True)
class HeadBudgets:
    """What each head keeps at each ratio: equal numbers, or shares according to error curves.

    Parameters
    ----------
    recipe : Recipe
        Defines the ratios, and the shares at which curves are measured.
    curves : torch.Tensor, optional
        Predicted divergence by share kept, shape (ratios, layers, kv_heads, keep shares); NaN for layers that are not
        compressed. Without it budgets are equal.
    """

    recipe: Recipe
    curves: torch.Tensor | None = None
    _counts: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def counts(self, ratio: int, num_keys: int, layer: int, heads: int) -> torch.Tensor:
        """Return the tokens that the heads of a layer keep, shape (kv_heads,)."""
        kept = compute_n_kept(num_keys, self.recipe.ratios[ratio])
        if self.curves is None:
            return torch.full((heads,), kept)
        if (ratio, num_keys) not in self._counts:
            self._counts[ratio, num_keys] = fitted_counts(self.curves[ratio], self.recipe.keep_shares, num_keys, kept)
        return self._counts[ratio, num_keys][layer]


@torch.no_grad()
def error_curves(router: Router, records: Sequence[Record], recipe: Recipe, progress: Progress) -> torch.Tensor:
    """Return the mean predicted divergence of a router's blends over records, shaped as in `HeadBudgets`."""
    ratios, shares = len(recipe.ratios), recipe.keep_shares
    curves = torch.full((ratios, *router.static.shape[:2], len(shares)), torch.nan)
    router.eval()
    for record in records:
        for index in record.layers:
            layer = record.layer(index)
            counts = [max(1, round(share * layer.num_keys)) for share in reversed(shares)]
            for ratio in range(ratios):
                order = blended_ranks(router, index, layer.seen, ratio)[0].argsort(dim=-1, descending=True)
                measured = divergence(layer.reading, order, counts).flip(-1) / len(records)
                curves[ratio, index] = curves[ratio, index].nan_to_num(0) + measured
        progress("measuring error curves")
    return curves
