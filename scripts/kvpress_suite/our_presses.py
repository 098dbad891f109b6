"""Our presses, as the suite lists those that it tests: a class, and arguments from easy to hard."""

from __future__ import annotations

from typing import Any

import torch
from kvpress import KnormPress, SnapKVPress

from pikvpress import (
    ChunkScorePress,
    FastVPress,
    MoERouterPress,
    PerLayerPress,
    PiKVPress,
    ProbeAttentionPress,
    SaliencyPress,
    WindowedObservedAttentionPress,
)
from pikvpress.experts.saliency import num_features
from pikvpress.routers import ROUTERS
from scripts.kvpress_suite.standins import TINY

RATIOS = (0.2, 0.8)
MASKING_BUDGETS = ("adakv", "global")


class RandomSaliencyPress(SaliencyPress):
    """With weights for the tiny model, which no calibration has seen."""

    def __init__(self, compression_ratio: float = 0.0) -> None:
        shape = TINY["num_hidden_layers"], TINY["num_key_value_heads"], num_features(TINY["head_dim"])
        weights = torch.randn(shape, generator=torch.Generator().manual_seed(3))
        super().__init__(compression_ratio, weights)


class ShortChunksPress(ChunkScorePress):
    """Over scores of a window that the suite's short contexts have room for, as the suite sets it for SnapKVPress."""

    def __init__(self, compression_ratio: float = 0.0) -> None:
        super().__init__(compression_ratio, SnapKVPress(window_size=2), chunk_length=4)


class TwoLayersPress(PerLayerPress):
    """A press of its own for each layer of the tiny model."""

    def __init__(self, compression_ratio: float = 0.0) -> None:
        super().__init__({0: KnormPress(compression_ratio)}, default=MoERouterPress(compression_ratio))


def our_presses() -> list[dict[str, Any]]:
    """Return what is added to the suite's list. Fitted budgets are left out: they need gates, and there are none."""
    routed = [{"router_type": router, "budgets": "equal"} for router in ROUTERS]
    routed += [{"budgets": budgets} for budgets in (*MASKING_BUDGETS, "pyramid", "auto")]
    presses: list[tuple[Any, dict[str, Any]]] = [(MoERouterPress, settings) for settings in routed]
    presses += [
        (each, {})
        for each in (
            RandomSaliencyPress,
            ProbeAttentionPress,
            WindowedObservedAttentionPress,
            ShortChunksPress,
            TwoLayersPress,
            PiKVPress,
        )
    ]
    presses.append((FastVPress, {"layer": 0}))
    return [
        {"cls": press, "kwargs": [{"compression_ratio": ratio, **settings} for ratio in RATIOS]}
        for press, settings in presses
    ]
