"""Checks of the inputs of presses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from kvpress import BasePress
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import StaticLayer

from pikvpress.images import VISUAL
from pikvpress.models import Attention
from pikvpress.support.padding import padding

logger = logging.getLogger(__name__)


def checked_ratio(value: Any, name: str = "compression_ratio") -> float:
    """Return a compression ratio, of a setting of this name, as a float.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is not in [0, 1).
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number in [0, 1), got {value!r}")
    if not 0 <= float(value) < 1:
        raise ValueError(f"{name} is the share of tokens to remove and must be in [0, 1), got {value}")
    return float(value)


def warn_of_uneven_layers(press: BasePress, model: PreTrainedModel) -> None:
    """Warn early if questions of several tokens will fail because layers hold different numbers of tokens.

    transformers creates one mask for all layers. Attention functions that models look up through transformers receive
    an adapted mask, see `pikvpress.cache.attention`; eager attention is not looked up before transformers 5.
    """
    if model.config._attn_implementation == "eager" and not hasattr(AttentionInterface, "get_interface"):
        logger.warning(
            "%s may leave layers of different lengths, with which eager attention before transformers 5 cannot read "
            "questions of several tokens: call model.set_attn_implementation('sdpa')",
            type(press).__name__,
        )


def refuse_masked_keys(module: Attention, way_out: str) -> None:
    """Raise a ``ValueError`` if a head-wise press has masked keys of an attention module.

    kvpress overwrites masked keys during decoding and stores their positions. They cannot be scored again, and the
    positions become wrong when other keys are removed.
    """
    if getattr(module, "masked_key_indices", None) is not None:
        raise ValueError(f"another press has masked keys of layer {module.layer_idx}: {way_out}")


def refuse_static(cache: Any) -> None:
    """Raise a ``ValueError`` if a cache has a fixed number of entries, so that none can be removed."""
    if any(isinstance(layer, StaticLayer) for layer in getattr(cache, "layers", ())):
        raise ValueError(
            f"a {type(cache).__name__} has a fixed number of entries, so none can be removed: call the model with "
            "past_key_values=DynamicCache() or PiKVCache(), and generate without cache_implementation"
        )


def refuse_padding(attention_mask: torch.Tensor | None) -> None:
    """Raise a ``ValueError`` if a mask hides keys from the last query, as padding does.

    For what removes the same entries, or as many, from every row of a batch.

    Parameters
    ----------
    attention_mask : torch.Tensor or None
        As received by an attention layer: bool or additive of shape (batch, 1, queries, keys), or 0/1 of shape
        (batch, keys).
    """
    if not isinstance(attention_mask, torch.Tensor):
        return
    hidden = padding(attention_mask, attention_mask.shape[-1])
    if hidden is not None and bool(hidden.any()):
        raise ValueError(
            "the batch is padded: padding would be kept in place of text, or the mask would refer to the wrong keys "
            "after some are removed; use MoERouterPress, PiKVPress or SaliencyPress alone, without a wrapper, another "
            "press or decoding, compress contexts one at a time, or batch contexts of equal length"
        )


def visual_among(kwargs: Mapping[str, Any], num_keys: int) -> torch.Tensor | None:
    """Return which keys of a context are of images, for what keeps as many entries of every row.

    Parameters
    ----------
    kwargs : mapping of str to object
        The arguments of a layer.
    num_keys : int
        Number of keys that it holds.

    Returns
    -------
    torch.Tensor or None
        bool, shape (batch, keys), with as many in each row; None if that is not known.

    Raises
    ------
    ValueError
        If another press has removed keys, or rows have different numbers of such keys.
    """
    visual = kwargs.get(VISUAL)
    if visual is None:
        return None
    if visual.shape[1] != num_keys:
        raise ValueError(
            f"there are {num_keys} keys of {visual.shape[1]} tokens, so that it is not known which are of images: "
            "no other press may remove entries before"
        )
    counts = visual.sum(dim=1).tolist()
    if len(set(counts)) > 1:
        raise ValueError(
            f"the rows of the batch have {', '.join(map(str, counts))} tokens of images, so that different numbers "
            "would be kept: compress contexts one at a time"
        )
    return visual
