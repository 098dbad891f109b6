"""pikvpress: a gated router that chooses KV-cache compression strategies per layer and head, for kvpress.

Importing it registers kvpress's pipeline, with a store of contexts as one more argument. It also wraps transformers'
attention, so that a `PiKVCache` can be read, and assisted decoding, so that it works with any press.
"""

from importlib.metadata import PackageNotFoundError, version

from pikvpress import assisted, chunked, images
from pikvpress.cache import PiKVCache, attention
from pikvpress.experts import (
    DEFAULT_EXPERTS,
    ChunkScorePress,
    ProbeAttentionPress,
    WindowedObservedAttentionPress,
    available_experts,
    register_expert,
)
from pikvpress.images import next_positions, visual_positions
from pikvpress.memory import MemoryUsage, measure_memory_usage
from pikvpress.plan import LayerPlan, MoELoad, Plan
from pikvpress.presses import FastVPress, ImageBudgetPress, MoERouterPress, PerLayerPress, PiKVPress, SaliencyPress
from pikvpress.schedulers import SCHEDULERS, Scheduler
from pikvpress.store import FolderStore
from pikvpress.store import pipeline as storing

attention.install()
assisted.install()
chunked.install()
images.install()
storing.install()
try:
    __version__ = version("pikvpress")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"

__all__ = [
    "DEFAULT_EXPERTS",
    "SCHEDULERS",
    "ChunkScorePress",
    "FastVPress",
    "FolderStore",
    "ImageBudgetPress",
    "LayerPlan",
    "MemoryUsage",
    "MoELoad",
    "MoERouterPress",
    "PerLayerPress",
    "PiKVCache",
    "PiKVPress",
    "Plan",
    "ProbeAttentionPress",
    "SaliencyPress",
    "Scheduler",
    "WindowedObservedAttentionPress",
    "available_experts",
    "measure_memory_usage",
    "next_positions",
    "register_expert",
    "visual_positions",
]
