"""Checks of what presses are given."""

from __future__ import annotations

import logging
from numbers import Real
from typing import Any

import torch
from kvpress import BasePress
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import StaticLayer

from pikvpress.models import Attention

logger = logging.getLogger(__name__)


def checked_ratio(value: Any) -> float:
    """Return a compression ratio as a float.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it does not lie in [0, 1).
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"compression_ratio must be a number in [0, 1), got {value!r}")
    if not 0 <= float(value) < 1:
        raise ValueError(f"compression_ratio is the share of tokens to remove and must lie in [0, 1), got {value}")
    return float(value)


def warn_of_uneven_layers(press: BasePress, model: PreTrainedModel) -> None:
    """Say at the start if questions of several tokens will fail after layers that hold different numbers of tokens.

    transformers makes one mask for all layers. Attention functions that models look up with it get one that fits, see
    `pikvpress.cache.attention`; eager attention is not looked up before transformers 5.
    """
    if model.config._attn_implementation == "eager" and not hasattr(AttentionInterface, "get_interface"):
        logger.warning(
            "%s may leave layers of different lengths, after which eager attention in transformers before 5 reads no "
            "question of several tokens: call model.set_attn_implementation('sdpa')",
            type(press).__name__,
        )


def refuse_masked_keys(module: Attention, way_out: str) -> None:
    """Raise a ``ValueError`` if a head-wise press has masked keys of an attention module.

    kvpress overwrites masked keys while decoding and remembers them by position: they cannot be scored again, and the
    positions are wrong once other keys are removed.
    """
    if getattr(module, "masked_key_indices", None) is not None:
        raise ValueError(f"another press has masked keys of layer {module.layer_idx}: {way_out}")


def refuse_static(cache: Any) -> None:
    """Raise a ``ValueError`` if a cache has a fixed number of entries, of which none can be removed."""
    if any(isinstance(layer, StaticLayer) for layer in getattr(cache, "layers", ())):
        raise ValueError(
            f"a {type(cache).__name__} has room for a fixed number of entries, of which none can be removed: give the "
            "model past_key_values=DynamicCache() or PiKVCache(), and generate no cache_implementation"
        )


def refuse_padding(attention_mask: torch.Tensor | None) -> None:
    """Raise a ``ValueError`` if a mask hides keys from the last query, as padding does.

    Parameters
    ----------
    attention_mask : torch.Tensor or None
        As an attention layer gets it: bool or additive of shape (batch, 1, queries, keys), or 0/1 of shape
        (batch, keys).
    """
    if attention_mask is None:
        return
    last = attention_mask[..., -1, :] if attention_mask.dim() == 4 else attention_mask
    hidden = last < 0 if last.is_floating_point() else last == 0
    if hidden.any():
        raise ValueError(
            "the batch is padded, and the padding would be kept in place of text, or the mask point at the wrong keys "
            "once some are removed: compress contexts one at a time, or batch contexts of equal length"
        )
