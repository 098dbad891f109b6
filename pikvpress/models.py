"""Differences between model architectures: location of layers, fused projections, q/k norms, rotary embeddings.

kvpress detects q/k norms by class and therefore skips those of Qwen3-MoE; everything here uses attributes instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from kvpress import BasePress
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicSlidingWindowLayer

from pikvpress.ranks import sample_of_columns

PROJECTIONS = ("q_proj", "k_proj", "qkv_proj")
SUPPORTED = "Llama, Mistral, Mixtral, Phi-3, Qwen2, Qwen3, Qwen3-MoE and Gemma 3"


# An attention module. `config`, `layer_idx`, `head_dim`, `scaling`, `o_proj` and other attributes are set in the
# constructor of each architecture, where type checkers do not see them.
Attention: TypeAlias = Any


def language_model(model: PreTrainedModel) -> Any:
    """Return the decoder of a causal language model, or of the language part of a vision-language model."""
    return getattr(model.model, "language_model", model.model)


def attention_layers(model: PreTrainedModel) -> list[Attention]:
    """Return the attention modules of a supported model, by layer."""
    return [layer.self_attn for layer in language_model(model).layers]


def check_supported(model: PreTrainedModel) -> None:
    """Raise a ``ValueError`` if the attention layers of ``model`` cannot be compressed.

    Parameters
    ----------
    model : PreTrainedModel
        The model, which is not changed.

    Raises
    ------
    ValueError
        The message names what is missing, and the supported architectures.
    """
    name = type(model).__name__
    if not hasattr(model, "model") or not hasattr(language_model(model), "layers"):
        raise ValueError(
            f"{name} cannot be compressed: kvpress reaches attention layers through model.model.layers, and scoring "
            "needs rotary positions; models with learned absolute positions, such as GPT-2, have neither. "
            f"Use a rotary decoder: {SUPPORTED}."
        )
    for index, layer in enumerate(language_model(model).layers):
        attention = getattr(layer, "self_attn", None)
        projects = hasattr(attention, "q_proj") or hasattr(attention, "qkv_proj")
        if not projects or not hasattr(attention, "head_dim"):
            raise ValueError(
                f"{name} cannot be compressed: layer {index} has no self-attention with a query projection "
                f"(linear attention and latent attention keep no keys per head). Use one of {SUPPORTED}."
            )


def num_key_value_heads(attention: Attention) -> int:
    """Return the number of KV heads of an attention module, of which a rank may hold only some (`ranks.shard_of`)."""
    config = attention.config
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def is_sliding(attention: Attention, cache_layer: Any = None) -> bool:
    """Return whether a layer's attention or cache has a sliding window: such layers are left unchanged."""
    return bool(getattr(attention, "is_sliding", False) or getattr(cache_layer, "is_sliding", False))


def queries_before_rotation(
    attention: Attention, hidden_states: torch.Tensor, outputs: Mapping[str, torch.Tensor] | None = None
) -> torch.Tensor:
    """Project hidden states (batch, tokens, hidden) to normalised queries (batch, heads, tokens, head_dim).

    ``outputs`` may contain outputs of the module's own projections for these hidden states, by their names in
    `PROJECTIONS`; these are not computed again.
    """
    if hasattr(attention, "q_proj"):
        flat = _projected(attention, "q_proj", hidden_states, outputs)
    else:
        flat = _projected(attention, "qkv_proj", hidden_states, outputs)[..., : _query_size(attention)]
    return _split_heads(flat, attention.head_dim, getattr(attention, "q_norm", None))


def keys_before_rotation(
    attention: Attention, hidden_states: torch.Tensor, outputs: Mapping[str, torch.Tensor] | None = None
) -> torch.Tensor:
    """Project hidden states (batch, tokens, hidden) to normalised keys (batch, kv_heads, tokens, head_dim).

    ``outputs`` as in `queries_before_rotation`.
    """
    if hasattr(attention, "k_proj"):
        flat = _projected(attention, "k_proj", hidden_states, outputs)
    else:
        start = _query_size(attention)
        size = num_key_value_heads(attention) * attention.head_dim
        flat = _projected(attention, "qkv_proj", hidden_states, outputs)[..., start : start + size]
    return _split_heads(flat, attention.head_dim, getattr(attention, "k_norm", None))


def _projected(
    attention: Attention, name: str, hidden_states: torch.Tensor, outputs: Mapping[str, torch.Tensor] | None
) -> torch.Tensor:
    known = (outputs or {}).get(name)
    return getattr(attention, name)(hidden_states) if known is None else known


def _query_size(attention: Attention) -> int:
    return attention.config.num_attention_heads * attention.head_dim


def _split_heads(flat: torch.Tensor, head_dim: int, norm: Any) -> torch.Tensor:
    # Qwen3 and Gemma 3 normalise each head, OLMo 2 the entire projection; the size of the norm's weight shows which.
    per_head = norm is not None and norm.weight.numel() == head_dim
    if norm is not None and not per_head:
        flat = norm(flat)
    heads = flat.unflatten(-1, (-1, head_dim)).transpose(1, 2)
    return norm(heads) if norm is not None and per_head else heads


def presses_of(attention: Attention) -> list[BasePress]:
    """Return the presses whose hooks are on an attention module."""
    owners = [getattr(hook, "__self__", None) for hook in attention._forward_hooks.values()]
    return [owner for owner in owners if isinstance(owner, BasePress)]


def presses_on(model: Any) -> list[BasePress]:
    """Return the presses whose hooks are on attention modules of a model, of any kind."""
    layers = getattr(language_model(model), "layers", ()) if hasattr(model, "model") else ()
    found = [press for layer in layers for press in presses_of(getattr(layer, "self_attn", layer))]
    return list({id(press): press for press in found}.values())


@contextmanager
def hooked(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Remove hooks on exit, also after errors."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def attention_mode(model: PreTrainedModel, mode: str) -> Iterator[None]:
    """Temporarily use another attention implementation."""
    before = model.config._attn_implementation
    model.set_attn_implementation(mode)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def emptied_on_error(model: PreTrainedModel) -> Iterator[None]:
    """Remove the entries that a failed prefill has added to some layers of a cache, since they are incomplete."""
    was_empty = False

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        nonlocal was_empty
        cache = kwargs.get("past_key_values")
        was_empty = isinstance(cache, Cache) and cache.get_seq_length() == 0

    def after(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if was_empty and output is None:
            _empty(kwargs["past_key_values"])

    decoder = language_model(model)
    handles = [
        decoder.register_forward_pre_hook(before, with_kwargs=True),
        decoder.register_forward_hook(after, with_kwargs=True, always_call=True),
    ]
    with hooked(handles):
        yield


def _empty(cache: Cache) -> None:
    sliding = [layer for layer in cache.layers if isinstance(layer, DynamicSlidingWindowLayer)]
    for layer in sliding:  # a full one cannot be cropped, and resets to zeros
        layer.cumulative_length = 0
    cache.crop(0)
    for layer in sliding:
        layer.is_initialized, layer.cumulative_length = False, 0


def copied(cache: DynamicCache) -> DynamicCache:
    """Return a cache with the same keys and values, which can grow and be modified independently."""
    copy = DynamicCache()
    for index, layer in enumerate(cache.layers):
        copy.update(layer.keys, layer.values, index)  # type: ignore[arg-type]
    return copy


@contextmanager
def rotary_at_hand(model: PreTrainedModel) -> Iterator[None]:
    """Set the rotary embedding on attention modules, where scorers expect it, and remove it on exit."""
    layers, rotary = attention_layers(model), language_model(model).rotary_emb
    had = [hasattr(layer, "rotary_emb") for layer in layers]
    for layer in layers:
        layer.rotary_emb = rotary
    try:
        yield
    finally:
        for layer, had_rotary in zip(layers, had, strict=True):
            if not had_rotary and hasattr(layer, "rotary_emb"):
                del layer.rotary_emb


def rotary_embedding(attention: Attention, like: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the cosines and sines (1, positions, rotary_dim) of an attention module at ``positions`` (1, n)."""
    rotary = attention.rotary_emb
    if hasattr(rotary, "layer_types"):  # one table for sliding, another for full attention
        return rotary(like, positions, attention.layer_type)
    return rotary(like, positions)


def rotary_from(attention: Attention, like: torch.Tensor, first: int) -> tuple[torch.Tensor, ...]:
    """Return the same at as many positions as ``like`` (batch, heads, tokens, head_dim) has tokens, from a first."""
    positions = torch.arange(first, first + like.shape[2], device=like.device)
    return rotary_embedding(attention, like, positions.unsqueeze(0))


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply a rotary embedding to ``states`` (batch, heads, tokens, head_dim); remaining channels are unchanged."""
    size = cos.shape[-1]
    first, second = states[..., :size].chunk(2, dim=-1)
    first_sin, second_sin = sin.unsqueeze(1).chunk(2, dim=-1)
    turned = states[..., :size] * cos.unsqueeze(1)
    turned[..., : size // 2].addcmul_(second, first_sin, value=-1)  # in place: allocating memory is slow on a CPU
    turned[..., size // 2 :].addcmul_(first, second_sin)
    return torch.cat((turned, states[..., size:]), dim=-1) if size < states.shape[-1] else turned


def unrotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Return the states that `rotate` was given."""
    scale = cos.square() + sin.square()  # not 1 if the embedding also scales attention
    return rotate(states, cos / scale, -sin / scale)


def fingerprint(attention: Attention) -> dict[str, str]:
    """Describe the model that an attention module belongs to: its shapes, and a digest of some of its weights.

    The digest is computed from the signs of 4,096 evenly spaced entries of the output projection, so that it is the
    same in float32, bfloat16 and float16 but differs between models with the same shape. Only fingerprints of the same
    layer can be compared. That of a model that is split over ranks is the same as in one process; all ranks must call
    this together.

    Returns
    -------
    dict
        Strings, as required for safetensors metadata.
    """
    config = attention.config
    digest = "unavailable"
    if attention.o_proj.weight.is_floating_point():
        sample = sample_of_columns(attention.o_proj, config.num_attention_heads * attention.head_dim, 4096)
        digest = hashlib.sha256(sample.cpu().numpy().tobytes()).hexdigest()
    return {
        "model_type": str(config.model_type),
        "num_hidden_layers": str(config.num_hidden_layers),
        "num_attention_heads": str(config.num_attention_heads),
        "num_key_value_heads": str(num_key_value_heads(attention)),
        "head_dim": str(attention.head_dim),
        "hidden_size": str(config.hidden_size),
        "weights": digest,
    }
