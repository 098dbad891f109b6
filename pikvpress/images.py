"""Contexts with images: where their tokens are, at which positions text goes on, and what presses are told of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pikvpress import models

IDS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
# Under this name in the arguments of a layer, presses find which tokens of the context are of images.
VISUAL = "pikvpress_visual"


def visual_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """Return the token ids that stand for pieces of images and videos; none for a model that reads only text."""
    config = models.unwrapped(model).config
    found = (getattr(config, name, None) for name in IDS)
    return tuple(sorted({int(token) for token in found if token is not None}))


def visual_positions(model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
    """Return which tokens of a context are pieces of images or videos.

    Parameters
    ----------
    model : PreTrainedModel
        The model, whose configuration knows the ids of such tokens.
    input_ids : torch.Tensor
        What the model's processor returns, shape (batch, tokens).

    Returns
    -------
    torch.Tensor
        bool, shape (batch, tokens); all False for a model that reads only text.

    Raises
    ------
    ValueError
        If the tokens are not integers of that shape.

    Examples
    --------
    >>> visual_positions(model, inputs["input_ids"]).sum(dim=1)
    """
    if input_ids.dim() != 2 or input_ids.is_floating_point():
        raise ValueError(
            f"input_ids must be integers of shape (batch, tokens), got {input_ids.dtype} of {tuple(input_ids.shape)}"
        )
    return torch.isin(input_ids, torch.tensor(visual_ids(model), device=input_ids.device, dtype=input_ids.dtype))


def next_positions(model: PreTrainedModel, length: int, count: int) -> torch.Tensor:
    """Return the positions of tokens after a context that the model has just read, whatever a press kept of it.

    Models would count on from the entries in the cache. The model must have read the context itself: Qwen2.5-VL and
    Qwen3-VL remember by how much the positions of its images differ from numbers of tokens (``rope_deltas``).

    Parameters
    ----------
    model : PreTrainedModel
        The model that has read the context.
    length : int
        Number of tokens before these: those of the context, and of what has been read since.
    count : int
        Number of tokens that follow.

    Returns
    -------
    torch.Tensor
        int64, shape (batch or 1, count), to be passed as ``position_ids``.

    Examples
    --------
    >>> with press(model):
    ...     model(**inputs, past_key_values=cache)
    >>> positions = next_positions(model, inputs["input_ids"].shape[1], question.shape[1])
    >>> model(input_ids=question, past_key_values=cache, position_ids=positions)
    """
    positions = torch.arange(length, length + count, device=model.device).unsqueeze(0)
    deltas = getattr(models.unwrapped(model).model, "rope_deltas", None)
    return positions if deltas is None else positions + deltas.to(positions.device).view(-1, 1)


@contextmanager
def images_watched(model: PreTrainedModel) -> Iterator[None]:
    """Tell hooks on attention layers what they need to know of images; undone on exit.

    Layers receive embeddings and rotations. Scorers find rotations in the form that text has (`rotary.rotation_of`),
    and an embedding that goes on after the context (`rotary.PlacesRotary`); presses also find which tokens are of
    images, bool, shape (batch, tokens), under `VISUAL`.
    """
    if not visual_ids(model) and not models.is_multimodal(models.language_model(model).rotary_emb):
        yield
        return
    seen: dict[str, torch.Tensor | None] = {VISUAL: None}

    def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        tokens = _argument(module, args, kwargs, "input_ids")
        seen[VISUAL] = None if tokens is None else visual_positions(model, tokens)

    def tell(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        kwargs.update(seen)  # which all hooks of the module share, but not its forward
        if models.counts_places(module):
            kwargs.update(models.rotation_of(module, kwargs))

    handles = [models.unwrapped(model).model.register_forward_pre_hook(before, with_kwargs=True)]
    for layer in models.attention_layers(model):
        handles.append(layer.register_forward_hook(tell, with_kwargs=True, prepend=True))
    with models.hooked(handles), _places_known(model):
        yield


@contextmanager
def _places_known(model: PreTrainedModel) -> Iterator[None]:
    """Let scorers count places where the model counts positions along three axes; undone on exit."""
    decoder = models.language_model(model)
    if not models.is_multimodal(decoder.rotary_emb):
        yield
        return
    with models.rotary_at_hand(model) as rotary:

        def follow(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            _follow(rotary, kwargs)

        with models.hooked([decoder.register_forward_pre_hook(follow, with_kwargs=True)]):
            yield


def _argument(module: nn.Module, args: tuple, kwargs: Mapping[str, Any], name: str) -> Any:
    if name in kwargs or not args:
        return kwargs.get(name)
    return inspect.signature(module.forward).bind_partial(*args).arguments.get(name)


def _follow(rotary: models.PlacesRotary, kwargs: Mapping[str, Any]) -> None:
    """Let a rotary embedding know which positions come after a context that is about to be read."""
    cache, tokens, positions = (kwargs.get(name) for name in ("past_key_values", "inputs_embeds", "position_ids"))
    if tokens is None:
        tokens = kwargs.get("input_ids")
    if tokens is None or tokens.shape[1] == 0 or (cache is not None and cache.get_seq_length() > 0):
        return
    rotary.length, rotary.following = tokens.shape[1], None
    if positions is not None:
        axes = positions.unsqueeze(0) if positions.dim() == 2 else positions[-3:]  # without those of the text alone
        rotary.following = axes.amax(dim=(0, 2)).unsqueeze(1) + 1
