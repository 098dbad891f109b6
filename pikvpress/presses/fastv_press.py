"""FastVPress: tokens with little attention in an early layer are dropped from all later layers."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from kvpress.presses.base_press import is_prefilling
from kvpress.utils import compute_n_kept
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.experts.layer_view import LayerView
from pikvpress.experts.observed_attention import WindowedObservedAttentionPress
from pikvpress.kernels.compact import gather_rows, select
from pikvpress.layerwise import LayerwisePress
from pikvpress.presses.checks import (
    checked_ratio,
    refuse_padding,
    refuse_static,
    visual_among,
    warn_of_uneven_layers,
)
from pikvpress.ranks import shard_of
from pikvpress.support.finite import check_scores


@dataclass
class FastVPress(LayerwisePress):
    """Rank tokens by the attention that they receive in one early layer; later layers keep the highest-ranked ones.

    FastV (https://arxiv.org/abs/2403.06764) found that image tokens receive little attention after the second layer,
    and drops them there. Layers up to `layer` keep everything; all later layers keep the same tokens, in every head.

    Parameters
    ----------
    compression_ratio : float, default=0.0
        Share of the tokens at `positions` to remove from the layers after `layer`, in [0, 1).
    layer : int, default=2
        Index of the layer whose attention ranks the tokens.
    positions : (int, int), optional
        Start and end (exclusive) of the positions that may be removed. By default those of images and videos or, in a
        context without any, all.
    window_size : int, default=256
        Number of latest queries whose attention counts.

    Raises
    ------
    ValueError
        If a setting is out of range; during the prefill, if the model has no such layer, the context no such positions,
        or the rows of a batch not as many tokens of images.
    """

    compression_ratio: float = 0.0
    layer: int = 2
    positions: tuple[int, int] | None = None
    window_size: int = 256
    _kept: torch.Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        checked_ratio(self.compression_ratio)
        if self.layer < 0:
            raise ValueError(f"layer must be at least 0, got {self.layer}")
        if self.positions is not None and not 0 <= self.positions[0] < self.positions[1]:
            raise ValueError(f"positions must be a start and a larger end, got {self.positions}")

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Check that the model has layers after the one that ranks the tokens."""
        models.check_supported(model)
        layers = models.attention_layers(model)
        if self.layer >= len(layers) - 1 or models.is_sliding(layers[self.layer]):
            raise ValueError(
                f"layer={self.layer} of {len(layers)} has no layers after it, or has sliding-window attention: choose "
                "another"
            )
        warn_of_uneven_layers(self, model)

    def forward_hook(self, module: models.Attention, input: list[torch.Tensor], kwargs: dict, output: list) -> list:
        """Rank tokens in one layer, and remove tokens in the layers after it."""
        hidden_states = kwargs["hidden_states"]
        if self.compression_ratio == 0 or not is_prefilling(kwargs["cache_position"], hidden_states.shape[1]):
            return output
        refuse_static(kwargs["past_key_values"])
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        if module.layer_idx == self.layer:
            refuse_padding(kwargs.get("attention_mask"))
            self._kept = self._ranked(module, hidden_states, layer.keys, layer.values, kwargs)
        elif module.layer_idx > self.layer and not models.is_sliding(module, layer):
            assert self._kept is not None
            positions = self._kept.to(layer.keys.device).expand(-1, layer.keys.shape[1], -1)
            layer.keys, layer.values = gather_rows(layer.keys, positions), gather_rows(layer.values, positions)
        return output

    @torch.no_grad()
    def _ranked(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        kwargs: dict,
    ) -> torch.Tensor:
        """Return the kept positions in ascending order, shape (batch, 1, kept)."""
        length = keys.shape[2]
        removable = self._removable(length, kwargs)
        kwargs, keys = models.rotation_of(module, kwargs), models.in_halves(module, keys)
        scorer = WindowedObservedAttentionPress(window_size=self.window_size)
        view = LayerView(module, hidden_states)
        scores = scorer.score(view, hidden_states, keys, values, None, kwargs)  # type: ignore[arg-type]
        tensors = {"hidden states": hidden_states, "keys": keys, "values": values}
        check_scores(module.layer_idx, {type(self).__name__: scores}, tensors)
        received = shard_of(module).gathered(scores.float(), 1).mean(dim=1, keepdim=True)
        received = received.masked_fill(~removable.unsqueeze(1).to(received.device), torch.inf)
        count = int(removable[0].sum())
        return select(received, length - count + compute_n_kept(count, self.compression_ratio))

    def _removable(self, length: int, kwargs: dict) -> torch.Tensor:
        """Return which tokens may be removed, bool, shape (batch or 1, tokens)."""
        if self.positions is None:
            visual = visual_among(kwargs, length)
            return visual if visual is not None and bool(visual.any()) else torch.ones(1, length, dtype=torch.bool)
        first, last = self.positions
        if last > length:
            raise ValueError(f"positions={self.positions}, but the context has {length} tokens: use smaller positions")
        places = torch.arange(length).unsqueeze(0)
        return (first <= places) & (places < last)
