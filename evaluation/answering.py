"""Questions to compressed contexts, many contexts at a time: the same weights are read once for all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from kvpress import BasePress
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from evaluation.compressed import CompressedContext, Masked, at_hand
from pikvpress import models


class RoomyLayer(DynamicLayer):
    """A cache layer with room for what is still to come, so that a new token does not copy the old ones."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, room: int):
        super().__init__()
        self.lazy_initialization(keys, values)
        self._room = tuple(_with_room(tensor, room) for tensor in (keys, values))
        self._show(keys.shape[2])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, cache_kwargs: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new entries behind the old ones and return all."""
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


def groups(contexts: Sequence[CompressedContext], batch_size: int) -> list[list[int]]:
    """Return which contexts can be read together: those whose layers have the same lengths, in order."""
    by_shape: dict[tuple, list[int]] = defaultdict(list)
    for index, context in enumerate(contexts):
        by_shape[context.lengths, context.next_position].append(index)
    return [same[i : i + batch_size] for same in by_shape.values() for i in range(0, len(same), batch_size)]


class Batch:
    """Contexts of one shape, as one cache.

    Parameters
    ----------
    model : PreTrainedModel
        Reads them.
    contexts : sequence of CompressedContext
        Left as they are.
    room : int
        Most tokens that will follow.
    """

    def __init__(self, model: PreTrainedModel, contexts: Sequence[CompressedContext], room: int):
        self._model, self._next = model, contexts[0].next_position
        self._uneven = len(set(contexts[0].lengths)) > 1
        self._cache = DynamicCache()
        self._cache.layers = [
            RoomyLayer(torch.cat([keys for keys, _ in same]), torch.cat([values for _, values in same]), room)
            for same in zip(*(context.layers for context in contexts), strict=True)
        ]
        self._masked = [_joined(same) for same in zip(*(context.masked for context in contexts), strict=True)]
        self._size = len(contexts)

    def read(self, ids: torch.Tensor, last_only: bool = False) -> torch.Tensor:
        """Return the logits after tokens (batch, tokens), which the cache then holds: (batch, tokens, vocabulary)."""
        if self._uneven and ids.shape[1] > 1:
            # transformers makes one mask for all layers, so layers of different lengths go token by token.
            logits = [self._step(ids[:, i : i + 1], 1) for i in range(ids.shape[1])]
            return logits[-1] if last_only else torch.cat(logits, dim=1)
        return self._step(ids, 1 if last_only else 0)

    def keep_rows(self, rows: list[int]) -> None:
        """Keep only some of the contexts."""
        index = torch.tensor(rows, device=self._model.device)
        for layer in self._cache.layers:
            layer.keep_rows(index)  # type: ignore[attr-defined]
        self._masked = [masked and _of_rows(masked, rows) for masked in self._masked]
        self._size = len(rows)

    def _step(self, ids: torch.Tensor, logits_to_keep: int) -> torch.Tensor:
        count = ids.shape[1]
        positions = torch.arange(self._next, self._next + count, device=ids.device).unsqueeze(0)
        with torch.no_grad(), at_hand(self._model):
            for layer, masked in zip(models.attention_layers(self._model), self._masked, strict=True):
                layer.masked_key_indices = masked
            logits = self._model(
                input_ids=ids.expand(self._size, -1),
                past_key_values=self._cache,
                position_ids=positions,
                logits_to_keep=logits_to_keep,
            ).logits
        self._next += count
        return logits


def answers(
    model: PreTrainedModel,
    contexts: Sequence[CompressedContext],
    question: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
) -> list[list[int]]:
    """Return the greedy answer from each context, as token ids.

    Parameters
    ----------
    model : PreTrainedModel
        Answers; its generation config says at which tokens it stops.
    contexts : sequence of CompressedContext
        Of one text.
    question : sequence of int
        Token ids behind the context.
    max_new_tokens : int
        Most tokens of an answer.
    batch_size : int
        Most contexts read together.
    """
    results: list[list[int]] = [[] for _ in contexts]
    ids = torch.tensor([list(question)], device=model.device)
    stop = stop_tokens(model)
    for group in groups(contexts, batch_size):
        batch = Batch(model, [contexts[i] for i in group], len(question) + max_new_tokens)
        active = list(group)
        logits = batch.read(ids, last_only=True)
        for step in range(max_new_tokens):
            tokens = logits[:, -1].argmax(dim=-1).tolist()
            for i, token in zip(active, tokens, strict=True):
                results[i].append(token)
            rows = [row for row, token in enumerate(tokens) if token not in stop]
            if not rows or step + 1 == max_new_tokens:
                break
            if len(rows) < len(active):
                batch.keep_rows(rows)
                active = [active[row] for row in rows]
            logits = batch.read(torch.tensor([[tokens[row]] for row in rows], device=model.device))
    return results


def answer_while_compressing(
    model: PreTrainedModel, press: BasePress, context: CompressedContext, question: Sequence[int], max_new_tokens: int
) -> list[int]:
    """Return the greedy answer of a press that compresses while decoding."""
    cache = DynamicCache()
    for index, (keys, values) in enumerate(context.layers):
        cache.update(keys.clone(), values.clone(), index)
    ids, position = torch.tensor([list(question)], device=model.device), context.next_position
    answer: list[int] = []
    with torch.no_grad(), at_hand(model), press(model):
        while len(answer) < max_new_tokens and (not answer or answer[-1] not in stop_tokens(model)):
            positions = torch.arange(position, position + ids.shape[1], device=model.device).unsqueeze(0)
            logits = model(input_ids=ids, past_key_values=cache, position_ids=positions, logits_to_keep=1).logits
            answer.append(int(logits[0, -1].argmax()))
            position += ids.shape[1]
            ids = torch.tensor([answer[-1:]], device=model.device)
    return answer


def log_probabilities(
    model: PreTrainedModel, contexts: Sequence[CompressedContext], future: Sequence[int], batch_size: int
) -> list[torch.Tensor]:
    """Return, for each context, log probabilities of what follows each token of ``future``, (tokens, vocabulary)."""
    results: dict[int, torch.Tensor] = {}
    ids = torch.tensor([list(future)], device=model.device)
    for group in groups(contexts, batch_size):
        logits = Batch(model, [contexts[i] for i in group], len(future)).read(ids)
        for i, row in zip(group, logits, strict=True):
            results[i] = row.float().log_softmax(dim=-1)
    return [results[i] for i in range(len(contexts))]


def stop_tokens(model: PreTrainedModel) -> set[int]:
    """Return the tokens at which the model's generation config ends an answer."""
    stop = model.generation_config.eos_token_id  # type: ignore[union-attr]
    return set() if stop is None else set(stop if isinstance(stop, list) else [stop])


def _with_room(tensor: torch.Tensor, room: int) -> torch.Tensor:
    batch, heads, length, dim = tensor.shape
    result = tensor.new_empty(batch, heads, length + room, dim)
    result[:, :, :length] = tensor
    return result


def _joined(masks: Sequence[Masked | None]) -> Masked | None:
    """Return the masked entries of several contexts as those of one batch."""
    parts = [(row, masked) for row, masked in enumerate(masks) if masked is not None and len(masked[0])]
    if not parts:
        return None
    device = parts[0][1][1].device
    batch = torch.cat([torch.full((len(masked[0]),), row, device=device) for row, masked in parts])
    heads, positions = (torch.cat([masked[i].to(device) for _, masked in parts]) for i in (1, 2))
    return batch, heads, positions


def _of_rows(masked: Masked, rows: Sequence[int]) -> Masked | None:
    """Return the masked entries of some sequences of a batch, counted anew."""
    return _joined([tuple(part[masked[0] == row] for part in masked) for row in rows])  # type: ignore[misc]
