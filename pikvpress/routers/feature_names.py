"""The features of an input that a router sees: measurements on probe queries, followed by cheap statistics.

Cheap statistics alone hardly predict which expert does well on an input; measurements of the experts do.

The features of a KV head, in order, for experts e = 1..E:

`error/<e>`
    log of the retained error of what expert e alone would keep at this budget, minus the mean over the experts.
`missed/<e>`
    log(1 + share of the probes' attention that expert e would evict), minus the mean over the experts.
`context_length`
    log2(number of keys) / 10.
`keep_share`
    log2(share of the keys that are kept).
`attention_entropy`
    Entropy of the probes' mean attention over the keys, divided by the log of the number of keys: 1 = uniform.
`sink_mass`
    Share of the probes' attention on the first 4 keys.
`recent_mass`
    Share of the probes' attention on the last 64 keys.
`key_coherence`
    Norm of the mean of the normalised keys: 1 = all keys point in the same direction.
`key_norm_spread`, `value_norm_spread`
    Standard deviation of the norms of the keys or values, divided by the mean norm.

An expert that cannot score the current input has 0 for its two features.
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
    """Return the names of the head features for experts with these names."""
    return (*(f"error/{name}" for name in experts), *(f"missed/{name}" for name in experts), *STATISTICS)
