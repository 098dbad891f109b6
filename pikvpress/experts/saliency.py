"""How much predictions would lose without a key, as estimated by a fitted linear map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from pikvpress import models
from pikvpress.experts.expert import Expert
from pikvpress.experts.ordered import OrderedScorerPress
from pikvpress.ranks import shard_of
from pikvpress.saliency_features import hidden_scores, num_features, positions_of, saliency_scores

NAME = "saliency"


@dataclass
class SaliencyScorer(OrderedScorerPress):
    """Score keys by a linear map, fitted for each head, of the key before rotation, its value, and its position.

    The map is fitted to saliency: how much the model's predictions of futures lose without the key, to second order
    (Optimal Brain Damage; LeCun et al., 1990). In a prefill the token's hidden state is known as well, from which KVzap
    (https://arxiv.org/abs/2601.07891) learns a similar surrogate of another score, that of KVzip; a second map takes
    it, too. The first one needs only what is in a cache.

    Parameters
    ----------
    compression_ratio : float, default=0.0
        Fraction of key-value pairs to remove.
    weights : torch.Tensor, optional
        Shape (layers, kv_heads, `num_features`), as in `Gates.saliency`. They must be set before the expert is used.
    hidden_weights : torch.Tensor, optional
        Shape (layers, kv_heads, `num_features` + hidden size), as in `Gates.saliency_hidden`: used instead where the
        hidden state of every key is known.
    """

    compression_ratio: float = 0.0
    weights: torch.Tensor | None = field(default=None, repr=False, compare=False)
    hidden_weights: torch.Tensor | None = field(default=None, repr=False, compare=False)

    def score(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor,
        kwargs: dict,
    ) -> torch.Tensor:
        """Return the fitted log saliency up to a constant per head, float32, shape (batch, kv_heads, keys).

        Raises
        ------
        ValueError
            If there are no weights, or they are for another number of heads.
        """
        weights, with_hidden = self.weights_for(module)
        hidden = None
        if with_hidden is not None and hidden_states is not None and hidden_states.shape[1] == keys.shape[2]:
            weights, hidden = with_hidden, hidden_states
        of_layer = shard_of(module).cut(weights[module.layer_idx], 0).to(keys.device, torch.float32)
        of_states, of_hidden = of_layer.tensor_split([num_features(keys.shape[3])], dim=1)
        cos, sin = positions_of(module, keys, kwargs)
        if len(cos) == 1:
            scores = saliency_scores(keys, values, cos, sin, of_states)
        else:  # each row has images of its own
            rows = zip(keys.split(1), values.split(1), cos.split(1), sin.split(1), strict=True)
            scores = torch.cat([saliency_scores(*row, weights=of_states) for row in rows])
        return scores if hidden is None else scores + hidden_scores(hidden, of_hidden)

    def weights_for(self, module: models.Attention) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return both weights for the model that an attention module belongs to, or raise a ``ValueError``."""
        if self.weights is None:
            raise ValueError("saliency is fitted by calibration and has no weights: pass it the weights of gates")
        return self.weights, self.hidden_weights


def equipped(
    experts: Sequence[Expert], weights: torch.Tensor | None, hidden_weights: torch.Tensor | None = None
) -> tuple[Expert, ...]:
    """Return the experts, where the saliency expert, if there is one, has weights: its own or the given ones.

    Raises
    ------
    ValueError
        If there is a saliency expert but no weights.
    """
    return tuple(_equipped(expert, weights, hidden_weights) for expert in experts)


def _equipped(expert: Expert, weights: torch.Tensor | None, hidden_weights: torch.Tensor | None) -> Expert:
    press = expert.press
    if type(press) is not SaliencyScorer or press.weights is not None:
        return expert
    if weights is None:
        raise ValueError(
            f"expert {expert.name!r} is fitted by calibration and there are no gates for this model with its "
            "weights: run `pikvpress calibrate`, or leave the expert out"
        )
    return replace(expert, press=replace(press, weights=weights, hidden_weights=hidden_weights))
