"""What is assumed about machines and models: published numbers, each with its source, and those measured here."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

MEASURED = Path(__file__).resolve().parents[1] / "results" / "attention-cpu-2-threads.csv"
ITEMSIZE = 2  # bfloat16
SENT = 4  # bytes of a number of partial attention, float32


@dataclass(frozen=True)
class Cluster:
    """Nodes of GPUs. Links are assumed to reach what their maker says, so that real ones are slower.

    Attributes
    ----------
    memory : float
        Bytes of a GPU, of an H200 (https://www.nvidia.com/en-us/data-center/h200/).
    memory_bandwidth : float
        Bytes read per second, same source.
    link_bandwidth : float
        Bytes per second between GPUs of a node, in one of the two directions of NVLink's 900 GB/s; same source.
    network_bandwidth : float
        Bytes per second of a GPU's own network adapter, 400 Gb/s (https://docs.nvidia.com/dgx/dgxh100-user-guide/).
    start_seconds, link_seconds, network_seconds : float
        Latency of a collective, and of each step within a node and between nodes: NCCL's own model of its rings with
        short messages (https://github.com/NVIDIA/nccl, src/graph/tuning.cc at 01afd20: 3.6, 0.47 and 2.7 µs).
    node : int
        GPUs of a node, as in a DGX.
    """

    memory: float = 141e9
    memory_bandwidth: float = 4.8e12
    link_bandwidth: float = 450e9
    network_bandwidth: float = 50e9
    start_seconds: float = 3.6e-6
    link_seconds: float = 0.47e-6
    network_seconds: float = 2.7e-6
    node: int = 8

    def gather(self, ranks: int, nbytes: float) -> float:
        """Return the seconds until ranks of a node have all `nbytes`, of which each had an equal part: a ring."""
        if ranks == 1:
            return 0.0
        return self.start_seconds + (ranks - 1) * (self.link_seconds + nbytes / ranks / self.link_bandwidth)

    def reduce(self, ranks: int, nbytes: float) -> float:
        """Return the seconds until ranks of a node have the sum of numbers of `nbytes` that each has: a ring, twice."""
        if ranks == 1:
            return 0.0
        return self.start_seconds + 2 * (ranks - 1) * (self.link_seconds + nbytes / ranks / self.link_bandwidth)

    def gather_between(self, nodes: int, nbytes: float) -> float:
        """Return the same as `gather` for nodes, with one GPU of each, in log₂ steps.

        NCCL does so since 2.23 for one GPU a node (PAT, https://developer.nvidia.com/blog/
        new-scaling-algorithm-and-initialization-with-nvidia-collective-communications-library-2-23/).
        """
        if nodes == 1:
            return 0.0
        steps = math.ceil(math.log2(nodes)) * self.network_seconds
        return self.start_seconds + steps + nbytes * (nodes - 1) / nodes / self.network_bandwidth

    def gather_over_all(self, ranks: int, nbytes: float) -> float:
        """Return the same as `gather` for ranks of several nodes, in one ring, which uses all network adapters."""
        nodes = -(-ranks // self.node)
        if nodes == 1:
            return self.gather(ranks, nbytes)
        steps = (ranks - nodes) * self.link_seconds + (nodes - 1) * self.network_seconds
        slowest = min(self.link_bandwidth, self.node * self.network_bandwidth)
        return self.start_seconds + steps + nbytes * (ranks - 1) / ranks / slowest


@dataclass(frozen=True)
class Decoder:
    """Shapes of a model, as in Table 3 of https://arxiv.org/abs/2407.21783.

    Attributes
    ----------
    layers, hidden, feed_forward, heads, kv_heads, vocabulary : int
        Its sizes.
    head_dim : int
        Channels of a head.
    """

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int = 8
    vocabulary: int = 128_256
    head_dim: int = 128

    @property
    def query_weights(self) -> int:
        """Bytes of a layer's projections to queries, keys and values."""
        return ITEMSIZE * self.hidden * self.head_dim * (self.heads + 2 * self.kv_heads)

    @property
    def other_weights(self) -> int:
        """Bytes of the rest of a layer."""
        return ITEMSIZE * self.hidden * (self.head_dim * self.heads + 3 * self.feed_forward)

    @property
    def output_weights(self) -> int:
        """Bytes of the projection to the vocabulary."""
        return ITEMSIZE * self.hidden * self.vocabulary

    @property
    def weights(self) -> int:
        """Bytes of all weights, of which a step reads all but the embeddings."""
        return self.layers * (self.query_weights + self.other_weights) + 2 * self.output_weights

    def cache(self, tokens: int) -> int:
        """Return the bytes of keys and values of one layer."""
        return 2 * ITEMSIZE * self.kv_heads * self.head_dim * tokens

    def partial(self, heads: int) -> int:
        """Return the bytes of partial attention of query heads: an output and a log-sum-exp each."""
        return SENT * heads * (self.head_dim + 1)


MODELS = {
    "Llama-3.1-70B": Decoder(layers=80, hidden=8192, feed_forward=28_672, heads=64),
    "Llama-3.1-405B": Decoder(layers=126, hidden=16_384, feed_forward=53_248, heads=128),
}


def rate_of_codes(path: Path = MEASURED) -> float:
    """Return how many bytes of 4-bit codes are read in the time of a byte of exact entries, as measured on a CPU."""
    rates: dict[str, float] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            bits = dict(part.split("=") for part in row["shape"].split())["key_bits"]
            if row["way"] == "compiled" and bits in ("16", "4"):
                rates.setdefault(bits, float(row["bytes"]) / float(row["median_ms"]))
    return rates["4"] / rates["16"]
