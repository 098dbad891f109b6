"""Names of contenders that the bars are about."""

from __future__ import annotations

FULL, PREALLOCATED = "full cache", "full cache, preallocated"
FULLS = (FULL, PREALLOCATED)
HALF, EIGHTH = (f"PiKVPress, {share} of the bytes, PiKVCache" for share in ("1/2", "1/8"))
PRESSES = ("MoERouterPress, 50 %", "PiKVPress, 87.5 % of the bytes, PiKVCache")  # of benchmarks.end_to_end
