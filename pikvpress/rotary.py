"""How architectures rotate queries and keys, and whether that is how scorers do it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn


class PlacesRotary(nn.Module):
    """The rotary embedding of a model that counts positions of images along three axes, for scorers.

    A piece of an image is at a position in time, height and width (https://arxiv.org/abs/2409.12191), and the next
    token of text after the largest of all positions: an image of 8 x 8 pieces takes 64 places, but 8 positions. Scorers
    know nothing of that, and ask for places after the context.

    Parameters
    ----------
    rotary : torch.nn.Module
        The embedding of the model.

    Attributes
    ----------
    following : torch.Tensor or None
        Position of the next token after each row of the context, shape (batch, 1); None if positions are places.
    length : int
        Number of tokens of the context.
    """

    def __init__(self, rotary: nn.Module):
        super().__init__()
        self.rotary = rotary
        self.following: torch.Tensor | None = None
        self.length = 0

    def forward(
        self, like: torch.Tensor, places: torch.Tensor, ahead: torch.Tensor | int | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Return cosines and sines (batch or 1, places, rotary_dim) of tokens of text at ``places`` (1, places).

        Parameters
        ----------
        like : torch.Tensor
            A tensor with the data type and device of the result.
        places : torch.Tensor
            Numbers of tokens before each token.
        ahead : torch.Tensor or int, optional
            How much larger its position is, shape (batch, 1); by default as after the latest context.
        """
        if ahead is None:
            ahead = 0 if self.following is None else self.following.to(places.device) - self.length
        positions = places + ahead
        turn = self.rotary(like, positions.expand(3, *positions.shape))
        return tuple(part[0] if part.dim() == 4 else part for part in turn)  # the same along all axes

    @property
    def inv_freq(self) -> torch.Tensor:
        """Frequencies of the model's embedding."""
        return self.rotary.inv_freq  # type: ignore[return-value]


def is_multimodal(rotary: Any) -> bool:
    """Return whether a model's rotary embedding takes positions along three axes, as that of Qwen2.5-VL does."""
    settings = getattr(getattr(rotary, "config", None), "rope_parameters", None) or {}
    return hasattr(rotary, "mrope_section") or "mrope_section" in settings


def counts_places(attention: Any) -> bool:
    """Return whether an attention module has the `PlacesRotary` of a model that counts images along three axes."""
    return isinstance(getattr(attention, "rotary_emb", None), PlacesRotary)


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply a rotary embedding to ``states`` (batch, heads, tokens, head_dim); remaining channels are unchanged.

    Cosines and sines may be more precise than the states, as in OLMo, which rotates in float32.
    """
    size = cos.shape[-1]
    first, second = states[..., :size].chunk(2, dim=-1)
    first_sin, second_sin = sin.unsqueeze(1).chunk(2, dim=-1)
    turned = states[..., :size] * cos.unsqueeze(1)
    turned[..., : size // 2].addcmul_(second, first_sin, value=-1)  # in place: allocating memory is slow on a CPU
    turned[..., size // 2 :].addcmul_(first, second_sin)
    turned = turned.to(states.dtype)
    return torch.cat((turned, states[..., size:]), dim=-1) if size < states.shape[-1] else turned


def unrotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return the states that `rotate` was given."""
    scale = cos.square() + sin.square()  # not 1 if the embedding also scales attention
    return rotate(states, cos / scale, -sin / scale)


def rotates(attention: Any) -> bool:
    """Return whether a layer rotates queries and keys: some layers of SmolLM3 and Cohere 2 have no positions."""
    if getattr(getattr(attention, "config", None), "model_type", None) == "cohere2":
        return attention.sliding_window is not None
    return bool(getattr(attention, "use_rope", True))


def rotary_embedding(
    attention: Any, like: torch.Tensor, positions: torch.Tensor, ahead: torch.Tensor | int | None = None
) -> tuple[torch.Tensor, ...]:
    """Return the cosines and sines (1, positions, rotary_dim) of an attention module at ``positions`` (1, n).

    They are on the device of ``like``: all layers share one embedding, which may be on another one. ``ahead`` as for
    `PlacesRotary`; other embeddings ignore it.
    """
    if not rotates(attention):
        cos = like.new_ones(1, positions.shape[1], attention.head_dim)
        return cos, torch.zeros_like(cos)
    rotary = attention.rotary_emb
    if isinstance(rotary, PlacesRotary):
        turn = rotary(like, positions, ahead)
    elif hasattr(rotary, "layer_types"):  # one table for sliding, another for full attention
        turn = rotary(like, positions, attention.layer_type)
    else:
        turn = _doubled(attention, rotary(like, positions))
    return tuple(part.to(like.device) for part in turn)


def rotation_of(attention: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a layer's arguments, with the rotation in the form that `rotate` takes."""
    given = kwargs.get("position_embeddings")
    if given is None:
        return dict(kwargs)
    if not rotates(attention):
        turn = given if isinstance(given, torch.Tensor) else given[0]  # complex in Llama 4
        dtype = next(attention.parameters()).dtype
        cos = torch.ones(1, turn.shape[1], attention.head_dim, dtype=dtype, device=turn.device)
        return dict(kwargs) | {"position_embeddings": (cos, torch.zeros_like(cos))}
    turn = _along_axes(attention, given) if given[0].dim() == 4 else _doubled(attention, given)
    return dict(kwargs) | {"position_embeddings": turn}


def rotary_from(attention: Any, like: torch.Tensor, first: int) -> tuple[torch.Tensor, ...]:
    """Return the same at as many positions as ``like`` (batch, heads, tokens, head_dim) has tokens, from a first."""
    positions = torch.arange(first, first + like.shape[2], device=like.device)
    return rotary_embedding(attention, like, positions.unsqueeze(0))


def moved(attention: Any, keys: torch.Tensor, offset: int) -> torch.Tensor:
    """Return rotated keys (batch, heads, tokens, head_dim) as the same keys are ``offset`` positions later.

    Rotations add up, so that one by the offset alone does this, whatever the positions of the keys; this holds as long
    as frequencies do not depend on the length of the text (`has_fixed_frequencies`). The attention module must have its
    ``rotary_emb``, see `models.rotary_at_hand`.
    """
    if offset == 0 or not rotates(attention):
        return keys
    wide = keys.to(torch.promote_types(keys.dtype, torch.float32))
    cos, sin = rotary_embedding(attention, wide, torch.tensor([[offset]], device=keys.device))
    scale = (cos.square() + sin.square()).sqrt()  # keys have it already if the embedding scales attention
    turned = rotate(in_halves(attention, wide), cos / scale, sin / scale)
    if form_of(attention) == "neighbours":
        turned = _interleaved(turned, 2 * attention.rotary_emb.inv_freq.numel())
    return turned.to(keys.dtype)


def has_fixed_frequencies(rotary: Any) -> bool:
    """Return whether a rotary embedding turns a position by the same angles in texts of any length."""
    kinds = getattr(rotary, "rope_type", "default")
    names = kinds.values() if isinstance(kinds, Mapping) else [kinds]
    return not any("dynamic" in str(name) or name == "longrope" for name in names)


def form_of(attention: Any) -> str:
    """Return how a model's own rotation pairs channels, found by running its function on some numbers.

    Returns
    -------
    str
        "halves": channels of the first half of a head with those of the second, as `rotate` does; also if the function
        is not found beside the attention class. "once": so too, with cosines and sines for one half only (GPT-OSS).
        "neighbours": each channel with the next, as `rotate` does after `in_halves` (GLM-4). "other": none of these.
    """
    kind: Any = type(attention)
    return _form_of(kind)


@cache
def _form_of(kind: Any) -> str:
    beside = sys.modules[kind.__module__]
    apply = getattr(beside, "apply_rotary_pos_emb", None)
    if hasattr(beside, "apply_multimodal_rotary_pos_emb"):
        apply = _one_axis(beside.apply_multimodal_rotary_pos_emb)
    if apply is None:
        return "halves"
    states, angles = torch.linspace(-1, 1, 8).view(1, 1, 1, 8), torch.tensor([[[0.3, 0.7, 1.1, 1.9]]])
    twice = torch.cat((angles, angles), dim=-1)
    wanted = rotate(states, twice.cos(), twice.sin())
    paired = rotate(_halved(states, 8), twice.cos(), twice.sin()).unflatten(-1, (2, 4)).mT.flatten(-2)
    for form, given, expected in (("halves", twice, wanted), ("neighbours", twice, paired), ("once", angles, wanted)):
        try:
            turned = _applied(apply, states, given)
        except RuntimeError:  # cosines of another size
            continue
        if turned.shape == states.shape and torch.allclose(turned, expected, atol=1e-5):
            return form
    return "other"


def _one_axis(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of one rotation from one that takes those of three axes, for heads of 8 channels."""

    def applied(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        return apply(q, k, cos.expand(3, *cos.shape), sin.expand(3, *sin.shape), [1, 1, 2])

    return applied


def _applied(apply: Callable[..., Any], states: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    takes_both = "k" in inspect.signature(apply).parameters
    turned = apply(*(states,) * (2 if takes_both else 1), angles.cos(), angles.sin())
    return turned[0] if takes_both else turned


def in_halves(attention: Any, states: torch.Tensor) -> torch.Tensor:
    """Return keys or queries (batch, heads, tokens, head_dim) with channels in the order that `rotate` expects.

    Only architectures that pair neighbouring channels have another order. Products of queries and keys stay the same.
    """
    if form_of(attention) != "neighbours" or not rotates(attention):
        return states
    return _halved(states, 2 * attention.rotary_emb.inv_freq.numel())


def _halved(states: torch.Tensor, size: int) -> torch.Tensor:
    """Return states with the even ones of the first channels before the odd ones."""
    first, rest = states[..., :size], states[..., size:]
    return torch.cat((first[..., ::2], first[..., 1::2], rest), dim=-1)


def _interleaved(states: torch.Tensor, size: int) -> torch.Tensor:
    """Return the states that `_halved` was given."""
    return torch.cat((states[..., :size].unflatten(-1, (2, -1)).mT.flatten(-2), states[..., size:]), dim=-1)


def _doubled(attention: Any, turn: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Return cosines and sines for both halves, if a model gives them once."""
    return tuple(torch.cat((part, part), dim=-1) for part in turn) if form_of(attention) == "once" else turn


def _along_axes(attention: Any, turn: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Return one rotation (batch, tokens, rotary_dim) from those of three axes (3, batch, tokens, rotary_dim).

    Each axis turns some of the channels, by https://arxiv.org/abs/2409.12191.
    """
    sections = list(attention.config.rope_parameters["mrope_section"]) * 2
    return tuple(
        torch.cat([axes[index % 3] for index, axes in enumerate(part.split(sections, dim=-1))], dim=-1) for part in turn
    )
