"""Reading many compressed contexts in one batch: weights are read once, attention is computed for each context.

Contexts of different lengths cannot be one tensor without padding, and transformers creates one mask for all layers.
The tokens after the contexts are therefore one batch with an ordinary cache, and our own attention function combines
their attention over that cache with attention over the contexts, which are stored in groups of equal lengths.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from evaluation.compressed import CompressedContext
from pikvpress import models

MODE = "compressed_contexts"


@dataclass
class LayerGroup:
    """One layer of contexts with the same number of entries, in adjacent rows of the batch.

    Parameters
    ----------
    rows : slice
        Rows of the batch.
    keys, values : torch.Tensor
        Shape (rows, kv_heads, entries, head_dim), or (1, ...) if all rows have the same contents.
    hidden : torch.Tensor, optional
        Mask of entries that are not attended to, bool, shape (rows, kv_heads, entries).
    next_position : int
        Position of the first token after the contexts.
    """

    rows: slice
    keys: torch.Tensor
    values: torch.Tensor
    hidden: torch.Tensor | None
    next_position: int


class RoomyLayer(DynamicLayer):
    """A cache layer with preallocated memory, so that appending a token does not copy the previous ones."""

    def __init__(self, room: int):
        super().__init__()
        self._capacity = room
        self._room: tuple[torch.Tensor, ...] = ()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, cache_kwargs: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the new entries and return all entries."""
        if not self._room:
            self.lazy_initialization(key_states, value_states)
            batch, heads, _, dim = key_states.shape
            shapes = ((batch, heads, self._capacity, dim), (batch, heads, self._capacity, value_states.shape[3]))
            self._room = tuple(key_states.new_empty(shape) for shape in shapes)
        held, new = self.get_seq_length(), key_states.shape[2]
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, held : held + new] = states
        return self._show(held + new)

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Keep only some sequences of the batch."""
        self._room = tuple(room.index_select(0, rows) for room in self._room)
        self._show(self.get_seq_length())

    def _show(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (room[:, :, :length] for room in self._room)
        self.keys, self.values = keys, values
        return keys, values


class ContextBatch:
    """Contexts of one text, and the tokens read after them.

    Parameters
    ----------
    model : PreTrainedModel
        The model, inside `reading_mode`.
    contexts : sequence of CompressedContext
        The contexts, which are not changed.
    room : int
        Maximum number of tokens that will follow.
    """

    def __init__(self, model: PreTrainedModel, contexts: Sequence[CompressedContext], room: int):
        self._model, self._contexts = model, list(contexts)
        self._cache = DynamicCache()
        self._cache.layers = [RoomyLayer(room) for _ in contexts[0].layers]
        self._order: list[int] = []
        self._groups: list[list[LayerGroup]] = []
        self._arrange(list(range(len(contexts))))

    def read(self, ids: torch.Tensor, last_only: bool = False) -> torch.Tensor:
        """Return the logits after tokens that follow every context, (contexts, tokens, vocabulary).

        Parameters
        ----------
        ids : torch.Tensor
            Shape (contexts or 1, tokens), in the order of the remaining contexts.
        last_only : bool, default=False
            Whether to return only the logits after the last token.
        """
        order = torch.tensor(self._order, device=ids.device)
        inputs = ids.expand(len(order), -1)[order]
        already = self._cache.get_seq_length()
        start = torch.tensor([context.next_position for context in self._contexts], device=ids.device)[order]
        positions = (start + already).unsqueeze(1) + torch.arange(ids.shape[1], device=ids.device)
        for layer, groups in zip(models.attention_layers(self._model), self._groups, strict=True):
            layer.context_groups = groups
        try:
            with torch.no_grad():
                logits = self._model(
                    input_ids=inputs,
                    past_key_values=self._cache,
                    position_ids=positions,
                    logits_to_keep=1 if last_only else 0,
                ).logits
        finally:
            for layer in models.attention_layers(self._model):
                del layer.context_groups
        return logits[order.argsort()]

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with only some of the contexts."""
        places = {context: place for place, context in enumerate(self._order)}
        kept = list(rows)
        self._contexts = [self._contexts[row] for row in kept]
        self._arrange([places[row] for row in kept])

    def _arrange(self, places: list[int]) -> None:
        """Group the contexts, and reorder the cache's rows, which are at ``places``, accordingly."""
        groups = _groups(self._contexts)
        self._order = [row for group in groups for row in group]
        if self._cache.get_seq_length():
            rows = torch.tensor([places[row] for row in self._order], device=self._model.device)
            for layer in self._cache.layers:
                layer.keep_rows(rows)  # type: ignore[attr-defined]
        self._groups = [
            [
                _layer_group(self._contexts, group, first, index)
                for group, first in zip(groups, _starts(groups), strict=True)
            ]
            for index in range(len(self._contexts[0].layers))
        ]


@contextmanager
def reading_mode(model: PreTrainedModel) -> Iterator[None]:
    """Let the model attend to the contexts of a `ContextBatch`."""
    with models.attention_mode(model, MODE):
        yield


def attend(
    module: models.Attention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend to the contexts and to the tokens read after them, with one softmax over both.

    Parameters
    ----------
    module : nn.Module
        The attention layer, with the groups of its contexts.
    query : torch.Tensor
        Shape (batch, heads, tokens, head_dim), the last tokens read.
    key, value : torch.Tensor
        Keys and values of all tokens read after the contexts, shape (batch, kv_heads, read, head_dim).
    attention_mask, dropout
        Not used.
    scaling : float
        Factor on the logits.
    sliding_window : int, optional
        How far back the layer sees; its contexts are not compressed in this case.
    """
    heads, tokens, read = key.shape[1], query.shape[2], key.shape[2]
    outputs = []
    for group in module.context_groups:
        states = query[group.rows].unflatten(1, (heads, -1))
        per_head = states.shape[2]
        states = states.flatten(2, 3)  # (rows, kv_heads, queries of the group's heads, head_dim)
        behind = (states @ key[group.rows].transpose(2, 3)).float() * scaling
        before = _product(states, group.keys.transpose(2, 3)).float() * scaling
        if group.hidden is not None:
            before = before.masked_fill(group.hidden.unsqueeze(2), -torch.inf)
        now = torch.arange(read - tokens, read, device=key.device).repeat(per_head).unsqueeze(1)
        then = torch.arange(read, device=key.device)
        unseen = then > now
        if sliding_window is not None:
            unseen |= then <= now - sliding_window
            context = torch.arange(group.keys.shape[2], device=key.device) - group.next_position
            before = before.masked_fill(context <= now - sliding_window, -torch.inf)
        weights = torch.cat([before, behind.masked_fill(unseen, -torch.inf)], dim=-1).softmax(dim=-1).to(value.dtype)
        held = before.shape[-1]
        output = _product(weights[..., :held], group.values) + weights[..., held:] @ value[group.rows]
        outputs.append(output.unflatten(2, (per_head, tokens)).flatten(1, 2))
    return torch.cat(outputs).transpose(1, 2).contiguous(), None


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return left @ right, (rows, kv_heads, queries, anything), reading shared operands only once."""
    if right.shape[0] == left.shape[0]:
        return left @ right
    rows, _, queries, _ = left.shape
    return (left.transpose(0, 1).flatten(1, 2) @ right[0]).unflatten(1, (rows, queries)).transpose(0, 1)


def _groups(contexts: Sequence[CompressedContext]) -> list[list[int]]:
    """Return the contexts in groups with equal lengths in every layer; contexts that share tensors are adjacent."""
    by_shape: dict[Any, list[int]] = defaultdict(list)
    same = [tuple(keys.data_ptr() for keys, _ in context.layers) for context in contexts]
    for row, context in enumerate(contexts):
        shared = same[row] if same.count(same[row]) > 1 else None
        by_shape[context.lengths, context.next_position, shared].append(row)
    return list(by_shape.values())


def _starts(groups: Sequence[Sequence[int]]) -> list[int]:
    starts, total = [], 0
    for group in groups:
        starts.append(total)
        total += len(group)
    return starts


def _layer_group(contexts: Sequence[CompressedContext], rows: Sequence[int], start: int, layer: int) -> LayerGroup:
    held = [contexts[row].layers[layer] for row in rows]
    if len({keys.data_ptr() for keys, _ in held}) == 1:
        keys, values = held[0]
    else:
        keys, values = (torch.cat(tensors) for tensors in zip(*held, strict=True))
    masks = [contexts[row].masked[layer] for row in rows]
    hidden = None
    if any(mask is not None and len(mask[0]) for mask in masks):
        hidden = torch.zeros(len(rows), *held[0][0].shape[1:3], dtype=torch.bool, device=keys.device)
        for row, mask in enumerate(masks):
            if mask is not None:
                _, heads, positions = (part.to(keys.device) for part in mask)
                hidden[row, heads, positions] = True
    slice_ = slice(start, start + len(rows))
    return LayerGroup(slice_, keys, values, hidden, contexts[rows[0]].next_position)


# Registered after kvpress is imported, so that kvpress does not wrap it with its masking by overwriting keys.
AttentionInterface.register(MODE, attend)
