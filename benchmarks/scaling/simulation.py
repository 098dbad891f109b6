"""A step of decoding as a simulation of events: ranks have clocks, and a message waits for the last of its ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.scaling.constants import ITEMSIZE, Cluster, Decoder
from benchmarks.scaling.heads import Share, shared, sizes_of


@dataclass(frozen=True)
class Setting:
    """What is simulated.

    Attributes
    ----------
    model : Decoder
        The model. Each node holds all of its weights, divided over its ranks by tensor parallelism.
    tokens : int
        Tokens of the context.
    ranks : int
        Number of ranks: a power of 2, whole nodes if they are more than one.
    ratio : float
        Share of the bytes of the cache that is removed.
    rule : str
        Rule of placement, see `benchmarks.scaling.heads.RULES`.
    at_once : bool
        Whether partial attention of all heads is exchanged by all ranks in one message, as `ShardedPiKVCache` does now;
        otherwise within nodes first, only of heads that they hold, and then between nodes.
    rate : float
        Bytes of the compressed cache that are read in the time of a byte of a full one.
    """

    model: Decoder
    tokens: int
    ranks: int
    ratio: float = 0.0
    rule: str = "longest first"
    at_once: bool = False
    rate: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """Seconds of a step, and the bytes of the fullest rank.

    Attributes
    ----------
    seconds : float
        From one token to the next.
    reading : float
        Of these, reading weights and cache, in the mean of all ranks.
    sending : float
        Of these, messages under way; the rest is waiting for slower ranks.
    nbytes : float
        Weights and cache of the fullest rank.
    """

    seconds: float
    reading: float
    sending: float
    nbytes: float


class _Clocks:
    """The time on every rank, and how much of it went where."""

    def __init__(self, cluster: Cluster, ranks: int):
        self._cluster, self._node = cluster, min(ranks, cluster.node)
        self.now, self.read, self.sent = np.zeros(ranks), np.zeros(ranks), 0.0

    def reads(self, nbytes: np.ndarray | float) -> None:
        """Let every rank read bytes of its memory."""
        seconds = nbytes / self._cluster.memory_bandwidth
        self.now += seconds
        self.read += seconds

    def meets_in_nodes(self, seconds: float) -> None:
        """Let the ranks of each node exchange a message once the last of them is there."""
        latest = self.now.reshape(-1, self._node).max(axis=1)
        self.now = np.repeat(latest, self._node) + seconds
        self.sent += seconds

    def meets(self, seconds: float) -> None:
        """Let all ranks exchange a message once the last of them is there."""
        self.now = np.full_like(self.now, self.now.max() + seconds)
        self.sent += seconds


def simulate(setting: Setting, cluster: Cluster) -> Outcome:
    """Return how long a step takes for one sequence.

    A layer reads the weights of its projections; gathers the queries within a node; reads the cache; merges the
    attention of all ranks; and reads its other weights, with two sums over the ranks of a node. Arithmetic, writing the
    new entry and starting kernels take no time.

    Raises
    ------
    ValueError
        If there are several nodes and one would not be whole.
    """
    model, ranks = setting.model, setting.ranks
    if ranks < 1 or (ranks > cluster.node and ranks % cluster.node):
        raise ValueError(f"{ranks} ranks are not whole nodes of {cluster.node}: use a multiple, or fewer ranks")
    split, clocks, cached = min(ranks, cluster.node), _Clocks(cluster, ranks), np.zeros(ranks)
    queries = ITEMSIZE * model.heads * model.head_dim
    for layer in range(model.layers):
        sizes = sizes_of(model, layer, setting.tokens, setting.ratio)
        share = shared(sizes, ranks, cluster.node, model.head_dim, setting.rule)
        held = np.array(share.nbytes)
        cached += held
        clocks.reads(model.query_weights / split)
        clocks.meets_in_nodes(cluster.gather(split, queries))
        clocks.reads(held / (setting.rate if setting.ratio else 1.0))
        _merge(clocks, setting, cluster, share)
        clocks.reads(model.other_weights / split)
        clocks.meets_in_nodes(2 * cluster.reduce(split, ITEMSIZE * model.hidden))
    clocks.reads(model.output_weights / split)
    nbytes = model.weights / split + cached.max()
    return Outcome(float(clocks.now.max()), float(clocks.read.mean()), clocks.sent, float(nbytes))


def _merge(clocks: _Clocks, setting: Setting, cluster: Cluster, share: Share) -> None:
    """Exchange partial attention until every rank has that of all heads."""
    model, ranks = setting.model, setting.ranks
    group = model.heads // model.kv_heads
    if setting.at_once or ranks <= cluster.node:
        clocks.meets(cluster.gather_over_all(ranks, ranks * model.partial(model.heads)))
        return
    # In a node, each rank merges an eighth of the heads; nodes exchange these; then the ranks of a node share them.
    most = model.partial(group * max(share.heads))
    clocks.meets_in_nodes(cluster.gather(cluster.node, most))
    clocks.meets(cluster.gather_between(len(share.heads), model.partial(group * sum(share.heads)) / cluster.node))
    clocks.meets_in_nodes(cluster.gather(cluster.node, ITEMSIZE * model.heads * model.head_dim))
