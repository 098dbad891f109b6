"""Compression strategies that the router can choose."""

from pikvpress import needs_kvpress  # noqa: F401  # first: it says what is missing
from pikvpress.experts.chunk_scores import ChunkScorePress
from pikvpress.experts.compactor import StreamedCompactorPress
from pikvpress.experts.expected_attention import StreamedExpectedAttentionPress
from pikvpress.experts.expert import Expert
from pikvpress.experts.key_diff import StreamedKeyDiffPress
from pikvpress.experts.lag_kv import StreamedLagKVPress
from pikvpress.experts.layer_input import LayerInput
from pikvpress.experts.layer_view import LayerView
from pikvpress.experts.leverage import StreamedLeverageScorePress
from pikvpress.experts.non_causal import StreamedNonCausalAttnPress
from pikvpress.experts.observed_attention import WindowedObservedAttentionPress
from pikvpress.experts.probe_attention import ProbeAttentionPress
from pikvpress.experts.registry import CANDIDATES, DEFAULT_EXPERTS, available_experts, make_experts, register_expert
from pikvpress.experts.rows import BatchRow, joined, rows_of
from pikvpress.experts.saliency import SaliencyScorer, equipped
from pikvpress.experts.snapkv import StreamedSnapKVPress
from pikvpress.experts.tova import StreamedTOVAPress

__all__ = [
    "CANDIDATES",
    "DEFAULT_EXPERTS",
    "BatchRow",
    "ChunkScorePress",
    "Expert",
    "LayerInput",
    "LayerView",
    "ProbeAttentionPress",
    "SaliencyScorer",
    "StreamedCompactorPress",
    "StreamedExpectedAttentionPress",
    "StreamedKeyDiffPress",
    "StreamedLagKVPress",
    "StreamedLeverageScorePress",
    "StreamedNonCausalAttnPress",
    "StreamedSnapKVPress",
    "StreamedTOVAPress",
    "WindowedObservedAttentionPress",
    "available_experts",
    "equipped",
    "joined",
    "make_experts",
    "register_expert",
    "rows_of",
]
