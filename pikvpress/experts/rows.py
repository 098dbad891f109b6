"""The rows of a padded batch, each as if it were alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pikvpress import models
from pikvpress.experts.layer_input import LayerInput
from pikvpress.support.padding import padding


@dataclass(frozen=True, eq=False)
class BatchRow:
    """One row of a padded batch, without its padding.

    Parameters
    ----------
    index : int
        Index of the row in the batch.
    tokens : slice
        Places of its tokens among the entries of the batch.
    layer : LayerInput
        The layer with this row only, its first token at position 0.
    """

    index: int
    tokens: slice
    layer: LayerInput


def rows_of(layer: LayerInput) -> list[BatchRow] | None:
    """Return the rows of a padded batch, each as the layer would receive it alone; None if there is no padding.

    Scorers assume that key i is at position i and that the last keys are the latest, and none of them takes a mask.
    Rows that are scored together would count padding as text, so they are scored one by one.

    Raises
    ------
    ValueError
        If a row has no tokens, or padding between them.
    """
    hidden = _padding_of(layer)
    if hidden is None:
        return None
    return [_row(layer, index, places) for index, places in enumerate((~hidden).tolist())]


def joined(rows: Sequence[BatchRow], kept: Sequence[torch.Tensor], shape: Sequence[int]) -> torch.Tensor:
    """Return which entries of a padded batch are kept; padding is not.

    Parameters
    ----------
    rows : sequence of BatchRow
        All rows of the batch.
    kept : sequence of torch.Tensor
        What each row keeps of its tokens, bool, shape (1, kv_heads, tokens).
    shape : sequence of int
        Batch, KV heads and entries.
    """
    mask = torch.zeros(*shape, dtype=torch.bool, device=kept[0].device)
    for row, stay in zip(rows, kept, strict=True):
        mask[row.index, :, row.tokens] = stay[0]
    return mask


def _padding_of(layer: LayerInput) -> torch.Tensor | None:
    """Return a mask of the padding (batch, keys), or None if there is none. This synchronises with a GPU."""
    hidden = padding(layer.kwargs.get("attention_mask"), layer.num_keys)
    if hidden is None or models.is_sliding(layer.module) or not bool(hidden.any()):
        return None
    return hidden.expand(layer.keys.shape[0], -1)


def _row(layer: LayerInput, index: int, is_token: list[bool]) -> BatchRow:
    count = sum(is_token)
    if count == 0:
        raise ValueError(f"row {index} of the batch has no tokens, only padding: leave it out")
    first = is_token.index(True)
    if not all(is_token[first : first + count]):
        raise ValueError(
            f"row {index} of the batch has padding between its tokens: pad contexts on the left, or on the right"
        )
    tokens = slice(first, first + count)
    keys = layer.keys[index : index + 1, :, tokens]
    along_axes = models.counts_places(layer.module)  # such a row stays where it is, since no one offset moves it
    position = 0 if along_axes else _position(layer.kwargs, index, first)
    if position:
        keys = _moved_back(layer.module, keys, position)
    attentions = layer.attentions
    alone = replace(
        layer,
        hidden_states=layer.hidden_states[index : index + 1, tokens],
        keys=keys,
        values=layer.values[index : index + 1, :, tokens],
        attentions=None if attentions is None else attentions[index : index + 1, :, tokens, tokens],
        kwargs=dict(layer.kwargs) | _arguments(layer, keys) | (_rotation(layer, index, tokens) if along_axes else {}),
        outputs={name: states[index : index + 1, tokens] for name, states in layer.outputs.items()},
        ahead=_ahead(layer.module, index, count) if along_axes else None,
    )
    return BatchRow(index, tokens, alone)


def _moved_back(attention: models.Attention, keys: torch.Tensor, positions: int) -> torch.Tensor:
    """Return rotated keys (batch, kv_heads, keys, head_dim) as they would be so many positions earlier."""
    place = torch.full((1, 1), positions, device=keys.device)
    cos, sin = (part.float() for part in models.rotary_embedding(attention, keys, place))
    scale = (cos.square() + sin.square()).sqrt()  # not 1 if the embedding also scales attention; keys stay scaled
    return models.rotate(keys.float(), cos / scale, -sin / scale).to(keys.dtype)


def _position(kwargs: Any, index: int, place: int) -> int:
    """Return the position of an entry: without positions for each row, models count padding as tokens."""
    positions = kwargs.get("position_ids")
    if positions is None:
        return place
    return int(positions[min(index, len(positions) - 1), place])


def _arguments(layer: LayerInput, keys: torch.Tensor) -> dict[str, Any]:
    """Return the arguments of a layer's forward that depend on which tokens it reads."""
    places = torch.arange(keys.shape[2], device=keys.device)
    found: dict[str, Any] = {"attention_mask": None, "cache_position": places, "position_ids": places.unsqueeze(0)}
    if layer.kwargs.get("position_embeddings") is not None:
        found["position_embeddings"] = models.rotary_from(layer.module, keys, 0)
    return found


def _rotation(layer: LayerInput, index: int, tokens: slice) -> dict[str, Any]:
    """Return the rotation of a row's tokens as the model has computed it."""
    turn = tuple(part[min(index, len(part) - 1)][None, tokens] for part in layer.kwargs["position_embeddings"])
    return {"position_embeddings": turn}


def _ahead(attention: models.Attention, index: int, count: int) -> int:
    """Return how much larger the positions after a row are than numbers of its tokens."""
    following = attention.rotary_emb.following
    return 0 if following is None else int(following[min(index, len(following) - 1)]) - count
