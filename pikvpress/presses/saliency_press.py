"""SaliencyPress: the fitted saliency expert as a separate press."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.experts import SaliencyScorer
from pikvpress.gates import gates_of


@dataclass
class SaliencyPress(SaliencyScorer):
    """Keep the keys without which predictions would lose most, as estimated by calibration.

    This is the expert "saliency" of `MoERouterPress` alone; see `pikvpress.experts.SaliencyScorer`. It works inside
    every kvpress wrapper that takes a `ScorerPress`.

    Parameters
    ----------
    compression_ratio : float, default=0.0
        Fraction of key-value pairs to remove.
    weights : torch.Tensor, optional
        Shape (layers, kv_heads, `num_features`), as in `Gates.saliency`. By default those of the model's gates.
    hidden_weights : torch.Tensor, optional
        As in `Gates.saliency_hidden`; with `weights` only.

    Raises
    ------
    ValueError
        If there are neither weights nor gates for the model that contain them.

    Examples
    --------
    >>> with SaliencyPress(0.5)(model):
    ...     model.generate(**inputs)
    """

    _found: tuple[torch.Tensor, torch.Tensor | None] | None = field(default=None, init=False, repr=False, compare=False)
    _found_for: Any = field(default=None, init=False, repr=False, compare=False)

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Find the weights for the model, if none were given."""
        self._find(models.attention_layers(model)[0])

    def weights_for(self, module: models.Attention) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return both weights for a module's model: the given ones, or those found from its first layer."""
        if self.weights is not None:
            return self.weights, self.hidden_weights
        if self._found_for is not module.config:  # some wrappers do not pass the model on
            if module.layer_idx != 0:
                raise ValueError(
                    "the model's weights are identified by its first layer, which the wrapper press did not compress: "
                    "call press.post_init_from_model(model) on the SaliencyPress first"
                )
            self._find(module)
        assert self._found is not None
        return self._found

    def _find(self, first: models.Attention) -> None:
        self._found = self._found_for = None
        if self.weights is not None:
            return
        gates = gates_of(first)
        if gates is None or gates.saliency is None:
            raise ValueError(
                "SaliencyPress is fitted by calibration, and there are no gates for this model with its weights: "
                "run `pikvpress calibrate`, or pass weights"
            )
        self._found, self._found_for = (gates.saliency, gates.saliency_hidden), first.config
