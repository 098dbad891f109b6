"""Tiny random models that read images, and contexts with an image."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from tests.conftest import CONFIGS, SIZES, VOCABULARY

IMAGE = VOCABULARY - 1  # the token that stands for a piece of an image
START, VIDEO = VOCABULARY - 2, VOCABULARY - 3
SIDE = 8  # pieces of an image along each side

AXES = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
TOWER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
PATCHES = TOWER | {"image_size": 4 * SIDE, "patch_size": 4}
QWEN_TOWER = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 4}
QWEN_TOWER |= {"spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": SIZES["hidden_size"]}
QWEN_TOKENS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START}
VISION: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": QWEN_TOKENS
    | {"text_config": SIZES | {"rope_parameters": AXES}}
    | {"vision_config": QWEN_TOWER | {"window_size": 16, "fullatt_block_indexes": [0]}},
    "qwen3_vl": QWEN_TOKENS
    | {"text_config": SIZES | {"head_dim": 16, "rope_parameters": AXES}}
    | {"vision_config": QWEN_TOWER | {"deepstack_visual_indexes": [0], "num_position_embeddings": 4 * SIDE**2}},
    "gemma3": {
        "text_config": CONFIGS["gemma3"]().to_dict(),
        "vision_config": PATCHES,
        "mm_tokens_per_image": SIDE**2,
        "image_token_index": IMAGE,
    },
    "llava_onevision": {
        "text_config": SIZES | {"model_type": "qwen2"},
        "vision_config": PATCHES | {"model_type": "siglip_vision_model"},
        "image_token_index": IMAGE,
        "video_token_index": VIDEO,
        "image_grid_pinpoints": [[4 * SIDE, 4 * SIDE]],
    },
    "smolvlm": {
        "text_config": SIZES | {"model_type": "llama"},
        "vision_config": PATCHES | {"image_size": 8 * SIDE},
        "image_token_id": IMAGE,
        "scale_factor": 2,
    },
}
VISION["idefics3"] = VISION["smolvlm"]


def make_vision(name: str, seed: int = 0, **kwargs: Any) -> PreTrainedModel:
    """Return a random model of an architecture that reads images; its attention is not flat."""
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(name, **VISION[name]), **kwargs)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "q_norm" in parameter_name or "k_norm" in parameter_name:
                parameter.copy_(torch.rand_like(parameter) + 0.5)
            elif parameter.dim() == 2 and ("q_proj" in parameter_name or "k_proj" in parameter_name):
                parameter.mul_(8)
    return model.eval()


def context(name: str, batch: int = 1, before: int = 20, after: int = 40, seed: int = 3) -> dict[str, torch.Tensor]:
    """Return what a processor makes of a text with an image in it, for an architecture.

    Parameters
    ----------
    name : str
        Name of the architecture.
    batch : int
        Number of sequences, each with an image of its own.
    before, after : int
        Numbers of tokens around the image.
    seed : int
        Seed of tokens and pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    pieces = SIDE**2 if name != "llava_onevision" else SIDE**2 + SIDE * (SIDE + 1)  # the whole, and its parts in rows
    words = torch.randint(1, VIDEO, (batch, before + after), generator=generator)
    words[:, before - 1] = START
    image = torch.full((batch, pieces), IMAGE)
    ids = torch.cat([words[:, :before], image, words[:, before:]], dim=1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name.startswith("qwen"):
        grid = torch.tensor([[1, 2 * SIDE, 2 * SIDE]]).repeat(batch, 1)
        return inputs | {
            "pixel_values": torch.randn(batch * 4 * SIDE**2, 96, generator=generator),
            "image_grid_thw": grid,
        }
    side = 4 * SIDE
    shape = {"gemma3": (batch, 3, side, side), "llava_onevision": (batch, 2, 3, side, side)}
    pixels = torch.randn(shape.get(name, (batch, 1, 3, 2 * side, 2 * side)), generator=generator)
    more = {"gemma3": {"token_type_ids": (ids == IMAGE).long()}}
    more["llava_onevision"] = {"image_sizes": torch.tensor([[side, side]]).repeat(batch, 1)}
    return inputs | {"pixel_values": pixels} | more.get(name, {})
