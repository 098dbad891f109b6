"""What each rank holds of each layer, by the rules of `pikvpress.sharding`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from benchmarks.scaling.constants import ITEMSIZE, Decoder
from pikvpress.budgets.spending import Heads, spend_fitted
from pikvpress.gates import load_gates
from pikvpress.gates.find import SHIPPED
from pikvpress.sharding import HeadPiece, Placement, divided, hierarchical, longest_first, round_robin

STEP, EXTRA = 256, 4  # entries at whose multiples heads are divided, and pieces a rank beside one a head: as in caches
RULES = ("round robin", "longest first", "hierarchical")


@dataclass(frozen=True)
class Share:
    """What ranks hold of one layer.

    Attributes
    ----------
    nbytes : tuple of float
        Bytes of each rank.
    heads : tuple of int
        Number of KV heads of which each node holds entries.
    """

    nbytes: tuple[float, ...]
    heads: tuple[int, ...]


@cache
def shipped_sizes() -> tuple[float, ...]:
    """Return the bytes of heads by the shipped gates at 1/8 of the bytes, relative to their mean, by layer and head."""
    (path,) = SHIPPED.glob("*.safetensors")
    gates = load_gates(path)
    assert gates.codec_curves is not None
    layers, number = gates.codec_curves.shape[1:3]
    heads = Heads(layers, number, 64, 4096, torch.bfloat16)
    plan = spend_fitted(gates, heads, 7 / 8, range(layers))
    pairs = zip(plan.counts.tolist(), plan.codecs, strict=True)
    sizes = [heads.size(codecs, count) for row in pairs for count, codecs in zip(*row, strict=True)]
    return tuple(size * len(sizes) / sum(sizes) for size in sizes)


def sizes_of(model: Decoder, layer: int, tokens: int, ratio: float) -> tuple[float, ...]:
    """Return the bytes of a layer's heads: equal in a full cache, otherwise as unequal as those of the shipped gates.

    The model with shipped gates has other heads, so these are taken in turn. Their mean over all is that of the budget.
    """
    mean = model.cache(tokens) * (1 - ratio) / model.kv_heads
    if ratio == 0:
        return (mean,) * model.kv_heads
    shipped = shipped_sizes()
    return tuple(mean * shipped[(layer * model.kv_heads + head) % len(shipped)] for head in range(model.kv_heads))


@cache
def shared(sizes: tuple[float, ...], ranks: int, node: int, head_dim: int, rule: str) -> Share:
    """Return what ranks hold of heads of so many bytes by a rule of `RULES`."""
    blocks = int(sum(sizes) // (2 * ITEMSIZE * head_dim * STEP))  # into which entries can be divided at most
    pieces = max(len(sizes), min(len(sizes) + EXTRA * ranks, blocks))
    nodes = -(-ranks // node)
    if rule == "hierarchical" and nodes > 1:
        placement = _by_node(sizes, nodes, ranks, pieces)
    elif rule == "round robin":
        placement = round_robin(divided(sizes, pieces), ranks)
    else:
        placement = longest_first(divided(sizes, pieces), ranks)
    held = [{piece.head for piece in mine} for mine in placement.ranks]
    of_nodes = [set[int]().union(*held[first : first + node]) for first in range(0, ranks, node)]
    return Share(tuple(placement.loads), tuple(map(len, of_nodes)))


def _by_node(sizes: Sequence[float], nodes: int, ranks: int, pieces: int) -> Placement:
    """Pack heads on nodes, in stretches so that there are enough of them, and then on ranks."""
    stretches = divided(sizes, max(len(sizes), min(pieces, len(sizes) + EXTRA * nodes)))
    extra = max(0, pieces - len(stretches)) // nodes
    placement = hierarchical([stretch.size for stretch in stretches], len(stretches), nodes, ranks, extra)

    def named(piece: HeadPiece) -> HeadPiece:
        return replace(piece, head=stretches[piece.head].head)

    return Placement(tuple(tuple(map(named, mine)) for mine in placement.ranks))
