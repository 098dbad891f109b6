"""The input of one layer in one forward, passed to everything that scores, measures or routes the layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from pikvpress import models
from pikvpress.experts.layer_view import LayerView
from pikvpress.ranks import HeadShard


@dataclass(frozen=True, eq=False)
class LayerInput:
    """One layer's input and the states that its attention computed from it.

    Created once, where kvpress passes a layer to a press.

    Parameters
    ----------
    module : torch.nn.Module
        The attention module.
    hidden_states : torch.Tensor
        Shape (batch, tokens, hidden). They may belong to other tokens than the keys: fewer during decoding, more after
        a press that pruned keys.
    keys, values : torch.Tensor
        Shape (batch, kv_heads, keys, head_dim).
    attentions : torch.Tensor, optional
        Attention weights, if the model returns them.
    kwargs : mapping of str to object
        The keyword arguments of the layer's forward.
    outputs : mapping of str to torch.Tensor
        Outputs of the module's own projections for these hidden states, by name, as far as they are known.
    ahead : int, optional
        How much larger the positions after the context are than numbers of tokens, if that is not as for the whole
        batch, see `rotary.PlacesRotary`.
    """

    module: models.Attention
    hidden_states: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    attentions: torch.Tensor | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    ahead: int | None = None

    @cached_property
    def view(self) -> LayerView:
        """Stand-in for the module that scorers see, so that all of them share its projections."""
        return LayerView(self.module, self.hidden_states, self.outputs, self.ahead)

    @property
    def index(self) -> int:
        """Index of the layer in the model."""
        return int(self.module.layer_idx)

    @property
    def shard(self) -> HeadShard:
        """The heads of the model that the keys and values are of."""
        return self.view.head_shard

    @property
    def num_keys(self) -> int:
        """Number of keys per head."""
        return self.keys.shape[2]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Tensors by the names that error messages use."""
        return {"hidden states": self.hidden_states, "keys": self.keys, "values": self.values}
