"""One layer of an input as the router sees it: every expert's order of the keys, and what probes say of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from kvpress.utils import compute_n_kept

from pikvpress import head_features
from pikvpress.experts import Expert, LayerView
from pikvpress.kernels.blend import ranks
from pikvpress.support.finite import check_scores, refuse_not_finite


class Examination(NamedTuple):
    """What was found.

    Attributes
    ----------
    available : list of int
        Which experts can score this input.
    ranked : torch.Tensor
        Ranks of their scores from 0 to 1, float32, shape (batch, kv_heads, len(available), keys).
    features : torch.Tensor
        Head features, float32, shape (batch, kv_heads, features); 0 if none were measured, and then no `mass`.
    mass : torch.Tensor or None
        Share of the probes' attention per key, float32, shape (batch, kv_heads, keys).
    """

    available: list[int]
    ranked: torch.Tensor
    features: torch.Tensor
    mass: torch.Tensor | None


def examine(
    experts: Sequence[Expert],
    view: LayerView,
    hidden_states: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attentions: torch.Tensor | None,
    kwargs: dict[str, Any],
    ratio: float,
    measures: bool = True,
) -> Examination:
    """Let the experts score a layer, and measure head features by what each would keep.

    Parameters
    ----------
    experts : sequence of Expert
        All experts of the router.
    view : LayerView
        The attention layer.
    hidden_states, keys, values, attentions, kwargs
        As kvpress gives them to a scorer.
    ratio : float
        Share of the keys to remove.
    measures : bool, default=True
        Whether head features are asked for.

    Raises
    ------
    ValueError
        If there are no keys, no expert can score the input, or there are NaN or infinite numbers: keys and values are
        always looked at, hidden states where an expert fails or its scores are NaN.
    """
    available = _available(experts, keys.shape[2], hidden_states.shape[1])
    tensors = {"hidden states": hidden_states, "keys": keys, "values": values}
    try:
        scores = {
            experts[i].name: experts[i].score(view, hidden_states, keys, values, attentions, kwargs, ratio).float()
            for i in available
        }
    except Exception:
        refuse_not_finite(view.layer_idx, tensors)  # many experts fail of them, in words of their own
        raise
    check_scores(view.layer_idx, scores, tensors)
    ranked = ranks(torch.stack([*scores.values()], dim=2))
    if not measures:
        unmeasured = ranked.new_zeros(*ranked.shape[:2], len(head_features.feature_names([e.name for e in experts])))
        return Examination(available, ranked, unmeasured, None)
    kept = torch.zeros_like(ranked, dtype=torch.bool)
    kept.scatter_(-1, ranked.topk(compute_n_kept(keys.shape[2], ratio), dim=-1, sorted=False).indices, True)
    features = head_features.collect(view, hidden_states, keys, values, kept, available, len(experts), kwargs)
    return Examination(available, ranked, features.values, features.mass)


def _available(experts: Sequence[Expert], num_keys: int, num_hidden_states: int) -> list[int]:
    if num_keys == 0:
        raise ValueError("there are no keys to score: the context is empty")
    able = [i for i, expert in enumerate(experts) if expert.can_score(num_keys, num_hidden_states)]
    if not able:
        names = ", ".join(expert.name for expert in experts)
        raise ValueError(
            f"none of the experts {names} can score {num_keys} keys given {num_hidden_states} hidden states: add "
            "one that needs keys alone (keydiff, knorm), use a longer context, or let MoERouterPress compress "
            "before the other press"
        )
    return able
