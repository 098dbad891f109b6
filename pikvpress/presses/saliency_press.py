"""SaliencyPress: what calibration learnt about keys, as a press of its own."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.experts import SaliencyScorer
from pikvpress.gates import find_gates


@dataclass
class SaliencyPress(SaliencyScorer):
    """Keep the keys without which predictions would lose most, as calibration learnt to tell.

    The expert "saliency" of `MoERouterPress` alone; see `pikvpress.experts.SaliencyScorer`. It works inside every
    wrapper of kvpress that takes a `ScorerPress`.

    Parameters
    ----------
    compression_ratio : float, default=0.0
        Fraction of key-value pairs to remove.
    weights : torch.Tensor, optional
        Shape (layers, kv_heads, `num_features`), as `Gates.saliency` has them. By default those of the gates that are
        found by the model.

    Raises
    ------
    ValueError
        If there are neither weights nor gates for the model that bring them.

    Examples
    --------
    >>> with SaliencyPress(0.5)(model):
    ...     model.generate(**inputs)
    """

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Find the weights by the model, if none were given."""
        if self.weights is not None:
            return
        gates = find_gates(models.fingerprint(models.attention_layers(model)[0]))
        if gates is None or gates.saliency is None:
            raise ValueError(
                "SaliencyPress is fitted by calibration, and there are no gates for this model that bring its weights: "
                "run `pikvpress calibrate`, or give it weights"
            )
        self.weights = gates.saliency
