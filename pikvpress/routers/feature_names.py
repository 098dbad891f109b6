"""What a router sees of an input: measurements on probe queries first, cheap statistics after them.

Cheap statistics alone say next to nothing about which expert will do well on an input; measuring the experts does.

The features of a KV head, in order, for experts e = 1..E:

`error/<e>`
    log of the retained error of what expert e alone would keep at this budget, less the mean over the experts.
`missed/<e>`
    log(1 + share of the probes' attention that expert e would evict), less the mean over the experts.
`context_length`
    log2(number of keys) / 10.
`keep_share`
    log2(share of the keys that is kept).
`attention_entropy`
    Entropy of the probes' mean attention over the keys, divided by the log of their number: 1 = spread evenly.
`sink_mass`
    Share of the probes' attention on the first 4 keys.
`recent_mass`
    Share of the probes' attention on the last 64 keys.
`key_coherence`
    Length of the mean of the keys, each scaled to length 1: 1 = all point the same way.
`key_norm_spread`, `value_norm_spread`
    Standard deviation of the norms of the keys, or values, divided by their mean.

An expert that cannot score the input at hand has 0 for its two features.
"""

from __future__ import annotations

from collections.abc import Sequence

VERSION = "1"
STATISTICS = (
    "context_length",
    "keep_share",
    "attention_entropy",
    "sink_mass",
    "recent_mass",
    "key_coherence",
    "key_norm_spread",
    "value_norm_spread",
)


def feature_names(experts: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the head features for experts of these names."""
    return (*(f"error/{name}" for name in experts), *(f"missed/{name}" for name in experts), *STATISTICS)
