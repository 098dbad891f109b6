"""Our presses, in the format of the suite's list: a class, and arguments of increasing difficulty."""

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
from pikvpress.routers import ROUTERS
from pikvpress.saliency_features import num_features
from scripts.kvpress_suite.standins import TINY

RATIOS = (0.2, 0.8)
MASKING_BUDGETS = ("adakv", "global")


class RandomSaliencyPress(SaliencyPress):
    """A SaliencyPress with weights for the tiny model, which was not calibrated."""

    def __init__(self, compression_ratio: float = 0.0) -> None:
        shape = TINY["num_hidden_layers"], TINY["num_key_value_heads"], num_features(TINY["head_dim"])
        weights = torch.randn(shape, generator=torch.Generator().manual_seed(3))
        super().__init__(compression_ratio, weights)


class ShortChunksPress(ChunkScorePress):
    """Scores from a window that fits the suite's short contexts, as the suite sets it for SnapKVPress."""

    def __init__(self, compression_ratio: float = 0.0) -> None:
        super().__init__(compression_ratio, SnapKVPress(window_size=2), chunk_length=4)


class TwoLayersPress(PerLayerPress):
    """A different press for each layer of the tiny model."""

    def __init__(self, compression_ratio: float = 0.0) -> None:
        super().__init__({0: KnormPress(compression_ratio)}, default=MoERouterPress(compression_ratio))


def our_presses() -> list[dict[str, Any]]:
    """Return the additions to the suite's list, without fitted budgets, which need gates."""
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
