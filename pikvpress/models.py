"""Differences between model architectures: location of layers, fused projections, q/k norms, rotary embeddings.

kvpress detects q/k norms by class and therefore skips those of Qwen3-MoE; everything here uses attributes instead.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache, PreTrainedModel
from transformers.masking_utils import create_causal_mask

from pikvpress.decoders import language_model, unwrapped
from pikvpress.devices import weights_at_hand
from pikvpress.kvpress_at_hand import is_press
from pikvpress.ranks import sample_of_columns
from pikvpress.rotary import (  # noqa: F401  # also under these names
    PlacesRotary,
    counts_places,
    form_of,
    in_halves,
    is_multimodal,
    rotary_embedding,
    rotary_from,
    rotate,
    rotates,
    rotation_of,
    unrotate,
)

if TYPE_CHECKING:
    from kvpress import BasePress

PROJECTIONS = ("q_proj", "k_proj", "qkv_proj")
WINDOWS = ("sliding_attention", "chunked_attention")  # kinds of layers that see only the latest tokens
SUPPORTED = "Llama, Mistral, Mixtral, Qwen2, Qwen3, Gemma 2 and 3, Phi-3, OLMo, Granite, SmolLM3 and others"

# The argument, and the field of outputs, with a model's cache; transformers has renamed it.
CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"


# An attention module. `config`, `layer_idx`, `head_dim`, `scaling`, `o_proj` and other attributes are set in the
# constructor of each architecture, where type checkers do not see them.
Attention: TypeAlias = Any


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
    model = unwrapped(model)
    if str(model.config._attn_implementation).startswith("paged|"):  # as continuous batching leaves a model
        raise ValueError(
            "the model is set to read the paged cache of continuous batching, which cannot be compressed: "
            "model.set_attn_implementation('sdpa') when the batches are done"
        )
    obstacle = _obstacle(model)
    if obstacle:
        raise ValueError(f"{type(model).__name__} cannot be compressed: {obstacle}. Use a rotary decoder: {SUPPORTED}.")


def _obstacle(model: PreTrainedModel) -> str:
    """Return why a model cannot be compressed, or an empty string."""
    if model.config.is_encoder_decoder:
        return "encoder-decoders keep the keys of two texts, and presses expect those of one"
    if not hasattr(model, "model") or not hasattr(language_model(model), "layers"):
        return (
            "kvpress reaches attention layers through model.model.layers, and scoring needs rotary positions; models "
            "with learned absolute positions, such as GPT-2, or without attention, such as Mamba, have neither"
        )
    attentions = [getattr(layer, "self_attn", None) for layer in language_model(model).layers]
    if all(is_sliding(attention) for attention in attentions):
        return "all its layers see only the latest tokens, so there is nothing to remove"
    for index, attention in enumerate(attentions):
        projects = hasattr(attention, "q_proj") or hasattr(attention, "qkv_proj")
        if not projects or not hasattr(attention, "head_dim"):
            return (
                f"layer {index} has no self-attention with a query projection (linear attention and latent attention "
                "keep no keys per head)"
            )
        if getattr(attention, "is_kv_shared_layer", False):
            return f"layer {index} reads keys of an earlier layer, which would be removed by then"
        if not is_sliding(attention) and rotates(attention) and form_of(attention) == "other":
            return "its rotary positions turn channels in another way than scorers do"
    return ""


def num_key_value_heads(attention: Attention) -> int:
    """Return the number of KV heads of an attention module, of which a rank may hold only some (`ranks.shard_of`)."""
    config = attention.config
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def is_sliding(attention: Attention, cache_layer: Any = None) -> bool:
    """Return whether a layer's attention or cache has a sliding window: such layers are left unchanged.

    Only some architectures say so on the module; the others list the kinds of their layers.
    """
    kinds: Any = getattr(getattr(attention, "config", None), "layer_types", None)
    windowed = bool(kinds) and kinds[attention.layer_idx] in WINDOWS
    return bool(windowed or getattr(attention, "is_sliding", False) or getattr(cache_layer, "is_sliding", False))


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


def cache_given(kwargs: Mapping[str, Any]) -> Any:
    """Return the cache among the arguments of a forward or of `generate`, under either of its names, or None."""
    given = kwargs.get("cache")
    return kwargs.get("past_key_values") if given is None else given


def presses_of(attention: Attention) -> list[BasePress]:
    """Return the presses whose hooks are on an attention module."""
    owners = [getattr(hook, "__self__", None) for hook in attention._forward_hooks.values()]
    return [owner for owner in owners if is_press(owner)]


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


def copied(cache: DynamicCache) -> DynamicCache:
    """Return a cache with the same keys and values, which can grow and be modified independently."""
    copy = DynamicCache()
    for index, layer in enumerate(cache.layers):
        copy.update(layer.keys, layer.values, index)  # type: ignore[arg-type]
    return copy


@contextmanager
def rotary_at_hand(model: PreTrainedModel) -> Iterator[Any]:
    """Set the rotary embedding on attention modules, where scorers expect it, and yield it; undone on exit.

    Scorers ask for places of tokens: where images count otherwise, they are given a `PlacesRotary`.
    """
    layers, rotary = attention_layers(model), language_model(model).rotary_emb
    if is_multimodal(rotary):
        rotary = PlacesRotary(rotary)
    before = [getattr(layer, "rotary_emb", None) for layer in layers]
    for layer in layers:
        layer.rotary_emb = rotary
    try:
        yield rotary
    finally:
        for layer, former in zip(layers, before, strict=True):
            if former is not None:
                layer.rotary_emb = former
            elif hasattr(layer, "rotary_emb"):
                del layer.rotary_emb


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
        with weights_at_hand(attention.o_proj):
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
