"""One layer of an input as the router sees it: every expert's ranking of the keys, and measurements of each expert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from kvpress.utils import compute_n_kept

from pikvpress.experts import Expert, LayerInput
from pikvpress.kernels.blend import ranks
from pikvpress.routers.feature_names import feature_names
from pikvpress.routing import features
from pikvpress.support.finite import check_scores, refuse_not_finite


class Examination(NamedTuple):
    """The result of an examination.

    Attributes
    ----------
    available : list of int
        Indices of the experts that can score this input.
    ranked : torch.Tensor
        Ranks of their scores from 0 to 1, float32, shape (batch, kv_heads, len(available), keys).
    features : torch.Tensor
        Head features, float32, shape (batch, kv_heads, features); 0 if they were not measured, and `mass` is then None.
    mass : torch.Tensor or None
        Share of the probes' attention per key, float32, shape (batch, kv_heads, keys).
    """

    available: list[int]
    ranked: torch.Tensor
    features: torch.Tensor
    mass: torch.Tensor | None


def examine(experts: Sequence[Expert], layer: LayerInput, ratio: float, measures: bool = True) -> Examination:
    """Score a layer with the experts, and measure head features from what each expert would keep.

    Parameters
    ----------
    experts : sequence of Expert
        All experts of the router.
    layer : LayerInput
        Input of the layer to score.
    ratio : float
        Share of the keys to remove.
    measures : bool, default=True
        Whether to measure head features.

    Raises
    ------
    ValueError
        If there are no keys, no expert can score the input, or there are NaN or infinite values. Keys and values are
        always checked, hidden states only if an expert fails or its scores are NaN.
    """
    available = able_experts(experts, layer.num_keys, layer.hidden_states.shape[1])
    try:
        scores = {experts[i].name: experts[i].score(layer, ratio).float() for i in available}
    except Exception:
        refuse_not_finite(layer.index, layer.tensors)  # many experts fail on such values with unhelpful messages
        raise
    check_scores(layer.index, scores, layer.tensors)
    ranked = ranks(torch.stack([*scores.values()], dim=2))
    if not measures:
        unmeasured = ranked.new_zeros(*ranked.shape[:2], len(feature_names([expert.name for expert in experts])))
        return Examination(available, ranked, unmeasured, None)
    kept = torch.zeros_like(ranked, dtype=torch.bool)
    kept.scatter_(-1, ranked.topk(compute_n_kept(layer.num_keys, ratio), dim=-1, sorted=False).indices, True)
    measured = features.collect(layer, kept, available, len(experts))
    return Examination(available, ranked, measured.values, measured.mass)


def able_experts(experts: Sequence[Expert], num_keys: int, num_hidden_states: int) -> list[int]:
    """Return the indices of the experts that can score so many keys with so many hidden states.

    Raises
    ------
    ValueError
        If there are no keys, or no expert can.
    """
    if num_keys == 0:
        raise ValueError("there are no keys to score: the context is empty")
    able = [i for i, expert in enumerate(experts) if expert.can_score(num_keys, num_hidden_states)]
    if not able:
        names = ", ".join(expert.name for expert in experts)
        raise ValueError(
            f"none of the experts {names} can score {num_keys} keys given {num_hidden_states} hidden states: add "
            "one that needs only keys (keydiff, knorm), use a longer context, or let MoERouterPress compress "
            "before the other press"
        )
    return able
