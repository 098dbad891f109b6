"""Compression strategies the router can choose."""

from pikvpress.experts.chunk_scores import ChunkScorePress
from pikvpress.experts.expert import Expert
from pikvpress.experts.layer_view import LayerView
from pikvpress.experts.observed_attention import WindowedObservedAttentionPress
from pikvpress.experts.probe_attention import ProbeAttentionPress
from pikvpress.experts.registry import DEFAULT_EXPERTS, available_experts, make_experts, register_expert

__all__ = [
    "DEFAULT_EXPERTS",
    "ChunkScorePress",
    "Expert",
    "LayerView",
    "ProbeAttentionPress",
    "WindowedObservedAttentionPress",
    "available_experts",
    "make_experts",
    "register_expert",
]
