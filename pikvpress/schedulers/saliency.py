"""Fitted saliency: what predictions would lose without an entry, estimated once when it leaves the window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from pikvpress import models
from pikvpress.budgets import counts_by_curves
from pikvpress.cache.scheduler import Candidates, Scheduler, Statistics
from pikvpress.cache.tail import DenseTail
from pikvpress.gates import Gates, gates_of
from pikvpress.ranks import HeadShard, shard_of
from pikvpress.saliency_features import content_scores, num_features, place_scores
from pikvpress.schedulers.heads import check_heads


@dataclass(frozen=True, eq=False)
class SaliencyScheduler(Scheduler):
    """Keep the entries without which predictions would lose most, as fitted by calibration.

    The score is that of `pikvpress.experts.SaliencyScorer`: a linear map of a key before its rotation, its value and
    its position. The part of the key and the value is computed once, when the entry leaves the recent window, and needs
    no query; it is divided by the head's mean norms, over the entries that have left so far. The part of the position
    takes what has been read so far as the length of the context, so that it changes for all entries as the text grows.

    Each head may hold a number of entries of its own: by the error curves of the gates, which divide the budget over
    all heads of all layers, or by given shares. The ceiling then holds for the mean of all layers.

    Parameters
    ----------
    weights : torch.Tensor, optional
        Shape (layers, kv_heads, features), as in `Gates.saliency`. By default those of the model's gates.
    shares : torch.Tensor, optional
        Entries that each head may hold, relative to the mean over all heads, shape (layers, kv_heads). By default, they
        follow from the error curves of the model's gates; all heads hold the same if there are none.
    append_only : bool, default=False
        Whether decisions are final: entries that are stored stay, and of those that leave the window only as many stay
        as their head may add; heads then have the shares of when entries first left. Without it, stored entries go when
        better ones come. Needs a ceiling that grows, `ratio`.

    Raises
    ------
    ValueError
        When a model is first read, if there are no weights for it, or weights or shares are for other heads.
    """

    name: ClassVar[str] = "saliency"
    measures: ClassVar[tuple[str, ...]] = ("saliency",)

    weights: torch.Tensor | None = None
    shares: torch.Tensor | None = None
    append_only: bool = False
    _gates: Gates | None = field(default=None, repr=False)
    _shard: HeadShard | None = field(default=None, repr=False)
    _quotas: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def ceilings(self) -> tuple[str, ...]:
        """Which kinds of ceilings it keeps: if decisions are final, only one that grows."""
        return ("ratio",) if self.append_only else super().ceilings

    def for_model(self, module: Any) -> SaliencyScheduler:
        """Return the scheduler with the model's weights and error curves."""
        if getattr(module.config, "no_rope_layers", None) is not None or models.form_of(module) != "halves":
            raise ValueError(
                "scheduler 'saliency' takes the rotation off the keys that it values, and this model does not tell its "
                "cache how keys are rotated, or rotates them in another way: choose a scheduler such as 'h2o'"
            )
        gates = gates_of(module) if self.weights is None or self.shares is None else None
        weights = self.weights
        if weights is None:
            if gates is None or gates.saliency is None:
                raise ValueError(
                    "scheduler 'saliency' is fitted by calibration, and there are no gates for this model with its "
                    "weights: run `pikvpress calibrate`, pass SaliencyScheduler(weights=...), or choose a scheduler "
                    "without fitted parameters, such as 'h2o'"
                )
            weights = gates.saliency
        check_heads("weights", weights, module, (num_features(module.head_dim),))
        if self.shares is not None:
            check_heads("shares", self.shares, module)
        curves = gates is not None and gates.curves is not None and self.shares is None
        return replace(self, weights=weights, _gates=gates if curves else None, _shard=shard_of(module))

    def for_shard(self, shard: HeadShard) -> SaliencyScheduler:
        """Return the scheduler for the heads of the model that a rank holds."""
        scheduler = replace(self, _shard=shard)
        scheduler._quotas.update(self._quotas)
        return scheduler

    def given(self, weights: torch.Tensor | None, shares: torch.Tensor | None) -> SaliencyScheduler:
        """Return the scheduler with these weights and shares, except for those that it has already."""
        return replace(
            self,
            weights=weights if self.weights is None else self.weights,
            shares=shares if self.shares is None else self.shares,
        )

    def saved(self) -> dict[str, Any]:
        """Return the settings, the error curves, and for what heads' shares were first drawn from them."""
        saved, gates = super().saved(), self._gates
        if gates is not None:
            saved |= {"curves": gates.curves, "keep_shares": [*gates.keep_shares], "ratios": [*gates.ratios]}
            saved["first"] = next(iter(self._quotas), None)
        return saved

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> SaliencyScheduler:
        """Return the scheduler from what `saved` returned."""
        saved = dict(saved)
        shares, ratios = (tuple(saved.pop(name, ())) for name in ("keep_shares", "ratios"))
        curves, first = saved.pop("curves", None), saved.pop("first", None)
        gates = None if curves is None else Gates({}, [], {}, curves, shares, ratios)
        scheduler = cls(**saved, _gates=gates)
        if gates is not None and first is not None:
            left, mean = first
            scheduler._quotas[left, mean] = counts_by_curves(gates, 1 - mean / left, left, mean)
        return scheduler

    def quotas(self, layer: int, heads: int, left: int, mean: int) -> Sequence[int]:
        """Return the entries that the heads of a layer may hold, by shares or by error curves."""
        if self.shares is not None:
            return self._own([int(mean * share) for share in self.shares[layer].tolist()])
        if self._gates is None or mean >= left:
            return [mean] * heads
        at = next(iter(self._quotas), (left, mean)) if self.append_only else (left, mean)
        if at not in self._quotas:
            self._quotas.clear()
            self._quotas[at] = counts_by_curves(self._gates, 1 - at[1] / at[0], *at)
        return self._own([mean * count // at[1] for count in self._quotas[at][layer].tolist()])

    def measure(
        self, leaving: DenseTail, angles: tuple[torch.Tensor, torch.Tensor], totals: torch.Tensor | None, layer: int
    ) -> tuple[Statistics, torch.Tensor]:
        """Return the part of the saliency that depends on keys and values."""
        scores, totals = content_scores(
            leaving.keys, leaving.values, angles, self._weights(layer, leaving.keys), totals
        )
        return {"saliency": scores}, totals

    def scores(self, candidates: Candidates) -> torch.Tensor:
        """Return the saliency of each entry; an entry that was not measured counts as average for its head."""
        measured = candidates.statistics.get("saliency")
        weights = self._weights(candidates.layer, candidates.positions)
        scores = place_scores(candidates.positions, candidates.length, weights)
        if measured is not None:
            average = measured.nanmean(dim=-1, keepdim=True).nan_to_num()
            scores = torch.where(measured.isnan(), average, measured) + scores
        if self.append_only:
            scores[..., : candidates.stored] = torch.inf
        return scores

    def page_score(self, scores: torch.Tensor, exist: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the mean loss without an entry of a page, since scores are logarithms of losses.

        The mean of the logarithms would give up a page with attention sinks for the sake of the 60 entries beside them.
        """
        number = exist.sum(dim=-1).clamp_min(1)
        return scores.masked_fill(~exist, -torch.inf).logsumexp(dim=-1) - number.log()

    def _weights(self, layer: int, like: torch.Tensor) -> torch.Tensor:
        assert self.weights is not None
        weights = self.weights[layer] if self._shard is None else self._shard.cut(self.weights[layer], 0)
        return weights.to(like.device, torch.float32)

    def _own(self, quotas: Sequence[int]) -> Sequence[int]:
        """Return those of the heads that this rank holds."""
        return quotas if self._shard is None else self._shard.own(quotas)
