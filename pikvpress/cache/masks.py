"""Attention masks: which of a layer's entries they hide, and how a mask is adapted to the layer's length."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch

from pikvpress.support.padding import is_hidden


def hidden(mask: torch.Tensor | None, tokens: int, new: int, device: torch.device) -> torch.Tensor:
    """Return which of the entries after the context each query must not attend to, shape (batch or 1, 1, tokens, new).

    Raises
    ------
    ValueError
        For a mask of flex attention.
    """
    if is_dense(mask):
        return is_hidden(mask[..., -new:])
    if not isinstance(mask, torch.Tensor | None):
        raise ValueError(
            f"a {type(mask).__name__} of flex attention cannot be used with a PiKVCache: "
            "model.set_attn_implementation('sdpa')"
        )
    if mask is None and tokens == 1:
        return torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device).expand(1, 1, 1, new)
    is_later = later(tokens, new, device)
    return is_later if mask is None else is_later | (mask[:, None, None, -new:] == 0)


def later(tokens: int, length: int, device: torch.device) -> torch.Tensor:
    """Return which entries come after each of the latest tokens, bool, shape (1, 1, tokens, length)."""
    place = torch.arange(length, device=device)
    return (place > length - tokens + torch.arange(tokens, device=device).unsqueeze(1))[None, None]


def is_dense(mask: Any) -> TypeGuard[torch.Tensor]:
    """Return whether a mask has an entry for each query and key, unlike those of flash and flex attention."""
    return isinstance(mask, torch.Tensor) and mask.dim() == 4


def fitted(mask: torch.Tensor | None, length: int) -> torch.Tensor | None:
    """Return a mask for a layer's entries: transformers creates one for all layers, with the first layer's length.

    Presses may leave layers of different lengths, in any cache. The latest entries are aligned at the end; all older
    entries that a press has kept are visible.
    """
    if not is_dense(mask) or mask.shape[-1] == length:
        return mask
    if mask.shape[-1] > length:
        return mask[..., -length:]
    seen = torch.ones_like if mask.dtype == torch.bool else torch.zeros_like
    return torch.cat([seen(mask[..., :1]).expand(*mask.shape[:-1], length - mask.shape[-1]), mask], dim=-1)
