"""A stand-in for an attention module with which several scorers share one projection of the hidden states."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from pikvpress import models
from pikvpress.ranks import HeadShard, shard_of


class LayerView:
    """The object that a kvpress scorer sees instead of the attention module.

    Each kvpress scorer projects the hidden states to queries again. Here every hidden state is projected at most once
    per layer, and q/k norms are applied on every architecture. All other attributes come from the module.

    Parameters
    ----------
    module : torch.nn.Module
        The attention module.
    hidden_states : torch.Tensor
        Hidden states, shape (batch, tokens, hidden). Scorers may pass any contiguous slice of these rows to `q_proj`
        and `k_proj`.
    outputs : mapping of str to torch.Tensor, optional
        Outputs of the module's own projections for these hidden states, if they are known.
    ahead : int, optional
        How much larger the positions after the context are than numbers of tokens, see `rotary.PlacesRotary`.
    """

    def __init__(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        outputs: Mapping[str, torch.Tensor] | None = None,
        ahead: int | None = None,
    ):
        self._ahead = ahead
        self._outputs = outputs or {}
        self._module = module
        self._hidden_states = hidden_states
        self._projected: dict[str, torch.Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        if name in ("q_norm", "k_norm", "qkv_proj"):
            raise AttributeError(
                f"a LayerView has no {name}: the outputs of q_proj and k_proj are split and normalised"
            )
        return getattr(self._module, name)

    @cached_property
    def head_shard(self) -> HeadShard:
        """The heads of the model that the module computes."""
        return shard_of(self._module)

    @cached_property
    def config(self) -> Any:
        """The model's configuration, with the numbers of heads that the module computes, for scorers of kvpress."""
        if self.head_shard.is_whole:
            return self._module.config
        config = copy.copy(self._module.config)
        config.num_attention_heads //= self.head_shard.ranks
        config.num_key_value_heads = self.head_shard.count
        return config

    @property
    def along_axes(self) -> bool:
        """Whether the model counts positions of images along three axes."""
        return models.counts_places(self._module)

    def q_proj(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return normalised queries before rotation, shape (batch, tokens, heads * head_dim)."""
        return self._rows("queries", hidden_states)

    def k_proj(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return normalised keys before rotation, shape (batch, tokens, kv_heads * head_dim)."""
        return self._rows("keys", hidden_states)

    def rotary_emb(self, like: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return cosines and sines at ``positions`` for the rotary embedding of this layer."""
        return models.rotary_embedding(self._module, like, positions, self._ahead)

    def _rows(self, kind: str, hidden_states: torch.Tensor) -> torch.Tensor:
        rows = _rows_within(hidden_states, self._hidden_states)
        # If the full projection has not been requested yet, projecting a few rows alone is cheaper.
        few = rows is not None and 4 * (rows.stop - rows.start) < self._hidden_states.shape[1] and not self._outputs
        if rows is None or (few and kind not in self._projected):
            return self._project(kind, hidden_states)
        if kind not in self._projected:
            self._projected[kind] = self._project(kind, self._hidden_states)
        return self._projected[kind][:, rows]

    def _project(self, kind: str, hidden_states: torch.Tensor) -> torch.Tensor:
        project = models.queries_before_rotation if kind == "queries" else models.keys_before_rotation
        outputs = self._outputs if hidden_states is self._hidden_states else None
        states = models.in_halves(self._module, project(self._module, hidden_states, outputs))
        return states.transpose(1, 2).flatten(2)


def _rows_within(part: torch.Tensor, whole: torch.Tensor) -> slice | None:
    """Return the slice of rows of ``whole`` that ``part`` is a view of, or None if it is not such a view."""
    same_memory = part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    if not same_memory or part.stride() != whole.stride() or part.shape[::2] != whole.shape[::2]:
        return None
    start, beside = divmod(int(part.storage_offset()) - int(whole.storage_offset()), max(1, whole.stride(1)))
    if beside or start < 0 or start + part.shape[1] > whole.shape[1]:
        return None
    return slice(start, start + part.shape[1])
