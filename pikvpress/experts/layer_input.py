"""What one layer of one forward gives to whoever scores, measures or routes it: one parcel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from pikvpress import models
from pikvpress.experts.layer_view import LayerView


@dataclass(frozen=True, eq=False)
class LayerInput:
    """One layer's input and what its attention has made of it.

    Made once, where kvpress hands a layer to a press.

    Parameters
    ----------
    module : torch.nn.Module
        The attention module.
    hidden_states : torch.Tensor
        Shape (batch, tokens, hidden). They may be those of other tokens than the keys: fewer while decoding, more after
        a press that pruned.
    keys, values : torch.Tensor
        Shape (batch, kv_heads, keys, head_dim).
    attentions : torch.Tensor, optional
        Attention weights, where the model returns them.
    kwargs : mapping of str to object
        The keyword arguments of the layer's forward.
    outputs : mapping of str to torch.Tensor
        What the module's own projections returned for these hidden states, by name, as far as it is known.
    """

    module: models.Attention
    hidden_states: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    attentions: torch.Tensor | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @cached_property
    def view(self) -> LayerView:
        """What scorers see instead of the module: all of them share its projections."""
        return LayerView(self.module, self.hidden_states, self.outputs)

    @property
    def index(self) -> int:
        """Index of the layer in the model."""
        return int(self.module.layer_idx)

    @property
    def num_keys(self) -> int:
        """Keys of a head."""
        return self.keys.shape[2]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """What messages name."""
        return {"hidden states": self.hidden_states, "keys": self.keys, "values": self.values}
