"""How a budget in bytes is spent: how many tokens each head of a layer keeps, and in which codecs."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pikvpress.budgets.curves import nearest
from pikvpress.budgets.spend_bytes import spend_bytes
from pikvpress.cache.codecs import CODECS
from pikvpress.cache.ragged import stored_bytes
from pikvpress.gates import Gates

STEPS = 4  # budgets tried between two measured keep shares
ROUNDS = 3
# Without curves, the first one with which all tokens fit is used; tokens are removed only if the last is too large.
UNIFORM = (
    ("exact", "exact"),
    ("int8", "int8"),
    ("int8", "rot4"),
    ("rot4", "rot4"),
    ("rot4", "rot3"),
    ("rot3", "rot3"),
)


@dataclass(frozen=True)
class Spending:
    """What each head keeps.

    Parameters
    ----------
    counts : torch.Tensor
        Number of tokens, int64, shape (layers, kv_heads).
    codecs : list of list of (str, str)
        Codecs of keys and values, by layer and head.
    nbytes : int
        Bytes that this takes per row of a batch, including padding.
    """

    counts: torch.Tensor
    codecs: list[list[tuple[str, str]]]
    nbytes: int


@dataclass(frozen=True)
class Heads:
    """The shape of what is stored.

    Parameters
    ----------
    layers, heads, head_dim : int
        Numbers of layers and KV heads, and the size of a head.
    num_keys : int
        Number of tokens in the context.
    dtype : torch.dtype
        Data type of keys and values.
    """

    layers: int
    heads: int
    head_dim: int
    num_keys: int
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of a head's keys and values when uncompressed."""
        return 2 * self.num_keys * self.head_dim * self.dtype.itemsize

    def size(self, codecs: tuple[str, str], count: int) -> int:
        """Return the bytes of a head that keeps ``count`` tokens."""
        return sum(
            stored_bytes(CODECS[name], count, self.head_dim, self.dtype, is_keys)
            for name, is_keys in zip(codecs, (True, False), strict=True)
        )

    def most_tokens(self, codecs: tuple[str, str], room: int) -> int:
        """Return how many tokens fit into the bytes of a head."""
        return bisect.bisect_right(range(self.num_keys), room, key=lambda count: self.size(codecs, count + 1))


def spend_fitted(gates: Gates, heads: Heads, ratio: float, compressed: Sequence[int]) -> Spending:
    """Spend (1 - ratio) of the bytes where they reduce the error most, according to the gates' error curves.

    Each curve was measured with experts that removed a given share of tokens. The curves nearest to the share that is
    removed in the end are used, which takes a second pass.

    Raises
    ------
    ValueError
        If that is less than what the smallest share and codec take in every head.
    """
    assert gates.codec_curves is not None
    shares, counts = _finer(gates.keep_shares, heads.num_keys)
    pairs = [pair for pair in gates.codecs if _fits(pair, heads.head_dim)]
    options = [(pair, count) for pair in pairs for count in counts]
    sizes = [heads.size(pair, count) for pair, count in options]
    budget = int((1 - ratio) * heads.nbytes * heads.heads * len(compressed))
    columns = [gates.codecs.index(pair) for pair in pairs]
    chosen, row = torch.empty(0), -1
    for _ in range(ROUNDS):
        wanted = ratio if row < 0 else 1 - _mean_count(chosen, options) / heads.num_keys
        best = nearest(gates, wanted)
        if best == row:
            break
        row = best
        errors = _interpolated(gates.codec_curves[row][:, :, columns], gates.keep_shares, shares).flatten(2)
        chosen = spend_bytes(errors, sizes, budget)
    kept = [[options[i][1] if i >= 0 else heads.num_keys for i in line] for line in chosen.tolist()]
    codecs = [[options[i][0] if i >= 0 else ("exact", "exact") for i in line] for line in chosen.tolist()]
    spent = sum(sizes[i] for line in chosen.tolist() for i in line if i >= 0)
    return Spending(torch.tensor(kept), codecs, spent)


def _mean_count(chosen: torch.Tensor, options: Sequence[tuple[tuple[str, str], int]]) -> float:
    counts = [options[i][1] for i in chosen.flatten().tolist() if i >= 0]
    return sum(counts) / len(counts)


def spend_uniform(heads: Heads, ratio: float, compressed: Sequence[int], gates: Gates | None = None) -> Spending:
    """Spend (1 - ratio) of the bytes equally on all heads.

    All heads get the same number of tokens and the same codecs: those with the smallest total error, if there are gates
    with error curves; otherwise fewer bits come first, then fewer tokens. If all tokens fit, the first heads get the
    next larger codecs, so that no bytes are left over.

    Raises
    ------
    ValueError
        If that is less than one token per head.
    """
    number = heads.heads * len(compressed)
    budget = int((1 - ratio) * heads.nbytes * number)
    curves = gates if gates is not None and gates.codec_curves is not None else None
    pairs = [pair for pair in (curves.codecs if curves else UNIFORM) if _fits(pair, heads.head_dim)]
    counts = [heads.most_tokens(pair, budget // number) for pair in pairs]
    if not any(counts):
        smallest = min(heads.size(pair, 1) for pair in pairs)
        raise ValueError(
            f"compression_ratio={ratio} leaves {budget // number} bytes per head, less than one token takes: "
            f"{int((1 - smallest / heads.nbytes) * 1000) / 1000} is the largest possible ratio here"
        )
    chosen = _least_error(curves, pairs, counts, heads.num_keys) if curves else _fewest_bits(counts, heads.num_keys)
    in_order = [pairs[chosen]] * number
    if counts[chosen] == heads.num_keys:
        size = heads.size(pairs[chosen], heads.num_keys)
        larger = [pair for pair in pairs if heads.size(pair, heads.num_keys) > size]
        if larger:
            dearer = min(larger, key=lambda pair: heads.size(pair, heads.num_keys))
            upgraded = (budget - size * number) // (heads.size(dearer, heads.num_keys) - size)
            in_order[:upgraded] = [dearer] * min(upgraded, number)
    codecs = [[pairs[chosen]] * heads.heads for _ in range(heads.layers)]
    for place, layer in enumerate(compressed):
        codecs[layer] = in_order[place * heads.heads : (place + 1) * heads.heads]
    total = sum(heads.size(pair, counts[chosen]) for pair in in_order)
    return Spending(torch.full((heads.layers, heads.heads), counts[chosen]), codecs, total)


def _fewest_bits(counts: Sequence[int], num_keys: int) -> int:
    """Return the index of the first codecs with which all tokens fit, or of the last ones."""
    return next((index for index, count in enumerate(counts) if count == num_keys), len(counts) - 1)


def _least_error(gates: Gates, pairs: Sequence[tuple[str, str]], counts: Sequence[int], num_keys: int) -> int:
    """Return the index of the codecs with the smallest total error at these numbers of tokens.

    If all numbers are below the measured ones, it is the largest number.
    """
    every = gates.codec_curves
    assert every is not None
    measured = [index for index, count in enumerate(counts) if count >= gates.keep_shares[-1] * num_keys]
    if not measured:
        return max(range(len(counts)), key=lambda index: counts[index])

    def error(index: int) -> float:
        share = counts[index] / num_keys
        curves = every[nearest(gates, 1 - share)][:, :, gates.codecs.index(pairs[index])]
        return float(_interpolated(curves, gates.keep_shares, [share]).nansum())

    return min(measured, key=error)


def _fits(pair: tuple[str, str], head_dim: int) -> bool:
    return all(head_dim % CODECS[name].unit == 0 for name in pair)


def _finer(keep_shares: Sequence[float], num_keys: int) -> tuple[list[float], list[int]]:
    """Return the measured shares and ones in between, descending, and the corresponding numbers of tokens."""
    shares = [
        high + (low - high) * step / STEPS for high, low in itertools.pairwise(keep_shares) for step in range(STEPS)
    ]
    shares.append(keep_shares[-1])
    return shares, [max(1, round(share * num_keys)) for share in shares]


def _interpolated(curves: torch.Tensor, measured: Sequence[float], shares: Sequence[float]) -> torch.Tensor:
    """Return curves (..., len(measured)) at other shares, by linear interpolation."""
    columns = []
    for share in shares:
        low = next(i for i in range(1, len(measured)) if measured[i] <= share)
        weight = (share - measured[low]) / (measured[low - 1] - measured[low])
        columns.append(torch.lerp(curves[..., low], curves[..., low - 1], weight))
    return torch.stack(columns, dim=-1)
