"""pikvpress: a gated router that chooses KV-cache compression strategies per layer and head, for kvpress.

Importing it registers kvpress's pipeline, with a store of contexts as one more argument. It also wraps transformers'
attention, so that a `PiKVCache` can be read, and assisted decoding, so that it works with any press. Without kvpress,
caches, schedulers and stores are there, and presses and experts say what they need.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pikvpress import assisted, chunked, continuous, kvpress_at_hand
from pikvpress.cache import PiKVCache, attention
from pikvpress.images import next_positions, visual_positions
from pikvpress.memory import MemoryUsage, measure_memory_usage
from pikvpress.plan import LayerPlan, MoELoad, Plan
from pikvpress.schedulers import SCHEDULERS, Scheduler
from pikvpress.store import FolderStore

attention.install()
assisted.install()
chunked.install()
continuous.install()

if TYPE_CHECKING or kvpress_at_hand.kvpress is not None:
    from pikvpress import image_presses
    from pikvpress.experts import (
        DEFAULT_EXPERTS,
        ChunkScorePress,
        ProbeAttentionPress,
        WindowedObservedAttentionPress,
        available_experts,
        register_expert,
    )
    from pikvpress.presses import (
        FastVPress,
        ImageBudgetPress,
        MoERouterPress,
        PerLayerPress,
        PiKVPress,
        SaliencyPress,
    )
    from pikvpress.store import pipeline as storing

    image_presses.install()
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

if not TYPE_CHECKING and kvpress_at_hand.kvpress is None:
    _MISSING = [name for name in __all__ if name not in globals()]
    __all__ = [name for name in __all__ if name not in _MISSING]

    def __getattr__(name: str) -> Any:
        if name in _MISSING:
            raise kvpress_at_hand.needed_by(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
