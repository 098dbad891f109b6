"""Attention of a few tokens over a cache whose heads have different lengths and codecs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.kernels.operation import Inputs, Operation, Work
from pikvpress.cache.codecs import CODECS, Codec
from pikvpress.cache.ragged import Ragged, stored_bytes

EXACT_BITS = 16  # in a shape: exact entries of any dtype
OF_EACH = 1  # in a shape: a different codec for each head
ROTATED = 20  # in a shape: added to the bits of a rotated codec


class Context(list[tuple[Ragged, Ragged]]):
    """The held entries, and the tensors that they were taken from, for alternatives.

    Parameters
    ----------
    held : list of (Ragged, Ragged)
        Keys and values.
    keys, values : torch.Tensor
        All entries, followed by the recent ones, shape (B, H, entries + recent, D).
    masked : tuple of torch.Tensor
        Rows, heads and positions of entries that are not held.
    """

    def __init__(
        self,
        held: list[tuple[Ragged, Ragged]],
        keys: torch.Tensor,
        values: torch.Tensor,
        masked: tuple[torch.Tensor, ...],
    ):
        super().__init__(held)
        self.keys, self.values, self.masked = keys, values, masked

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(side.nbytes for pair in self for side in pair)

    def double(self) -> list[tuple[Wide, Wide]]:
        """Return the held entries in float64."""
        return [(Wide(keys), Wide(values)) for keys, values in self]


class Wide:
    """Keys or values in float64.

    Parameters
    ----------
    ragged : Ragged
        The ragged rows that they are read from.
    """

    layout = None

    def __init__(self, ragged: Ragged):
        self._ragged = ragged

    def part(self, index: int) -> torch.Tensor:
        """Return the rows of one head."""
        return self._ragged.part(index).double()

    def rotated_part(self, index: int) -> None:
        """Return None: all rows are rotated back."""


def counts(parts: int, entries: int, least: int, most: int) -> list[int]:
    """Return how many entries each head keeps, uniformly from `least` to `most` percent, in random order."""
    shares = [least + (most - least) * (5 * part % parts) / max(1, parts - 1) for part in range(parts)]
    return [round(entries * share / 100) for share in shares]


def codecs(parts: int, bits: int) -> list[Codec]:
    """Return the codec of each head."""
    if bits == OF_EACH:
        return [list(CODECS.values())[part % len(CODECS)] for part in range(parts)]
    if bits > ROTATED:
        return [CODECS[f"rot{bits - ROTATED}"]] * parts
    return [CODECS["exact" if bits == EXACT_BITS else f"int{bits}"]] * parts


def make(
    dtype: torch.dtype,
    device: str,
    *,
    batch: int,
    heads: int,
    group: int,
    tokens: int,
    entries: int,
    recent: int,
    head_dim: int,
    least: int,
    most: int,
    key_bits: int,
    value_bits: int,
    cleared: int,
) -> Inputs:
    """Return queries of the latest tokens, and entries of which each head keeps the first `least` to `most` percent.

    Some channels of the held keys are 0, as after ThinK.
    """
    query = torch.randn(batch, heads * group, tokens, head_dim, device=device).to(dtype)
    keys = torch.randn(batch, heads, entries + recent, head_dim, device=device).to(dtype)
    values = torch.randn(batch, heads, entries + recent, head_dim, device=device).to(dtype)
    keys[:, :, :: max(1, entries // 7)] *= 2
    keys[:, :, :entries, torch.randperm(head_dim, device=device)[:cleared]] = 0
    lengths = counts(batch * heads, entries, least, most)
    parts = [[side.flatten(0, 1)[part, :length] for part, length in enumerate(lengths)] for side in (keys, values)]
    held = (
        Ragged.store(parts[0], codecs(batch * heads, key_bits), is_keys=True),
        Ragged.store(parts[1], codecs(batch * heads, value_bits)[::-1], is_keys=False),
    )
    gone = torch.arange(entries, device=device) >= torch.tensor(lengths, device=device).view(batch, heads, 1)
    latest = torch.arange(recent, device=device)
    return {
        "query": query,
        "held": Context([held], keys, values, gone.nonzero(as_tuple=True)),
        "keys": keys[:, :, entries:],
        "values": values[:, :, entries:],
        "hidden": (latest > recent - tokens + torch.arange(tokens, device=device)[:, None])[None, None],
        "scaling": head_dim**-0.5,
    }


def work(
    element_size: int,
    *,
    batch: int,
    heads: int,
    group: int,
    tokens: int,
    entries: int,
    recent: int,
    head_dim: int,
    least: int,
    most: int,
    key_bits: int,
    value_bits: int,
    cleared: int,
) -> Work:
    """Return the floor: held and recent entries read once, queries and results once, two matrix products."""
    parts = batch * heads
    lengths = counts(parts, entries, least, most)
    dtype = {2: torch.float16, 4: torch.float32}[element_size]
    held = 0
    for count, of_keys, of_values in zip(
        lengths, codecs(parts, key_bits), codecs(parts, value_bits)[::-1], strict=True
    ):
        width = min(head_dim, -(-(head_dim - cleared) // of_keys.unit) * of_keys.unit)
        held += stored_bytes(of_keys, count, width, dtype, True) + stored_bytes(
            of_values, count, head_dim, dtype, False
        )
        held += 2 * width if count and width < head_dim else 0
    rows = parts * group * tokens
    return Work(
        bytes=held + (2 * parts * recent + 2 * rows) * head_dim * element_size + 4 * rows,
        flops=4 * group * tokens * head_dim * (sum(lengths) + parts * recent),
    )


def over_everything(
    query: torch.Tensor,
    held: Context,
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Return PyTorch's attention over all entries, as in a DynamicCache."""
    return _sdpa(query, held.keys, held.values, hidden, scaling)


def over_everything_by_group(
    query: torch.Tensor,
    held: Context,
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Return the same for one token; the queries of a KV head stand in for tokens, so that its keys are read once."""
    if query.shape[2] > 1:
        return over_everything(query, held, keys, values, hidden, scaling)
    grouped = query.view(*keys.shape[:2], -1, query.shape[3])
    return scaled_dot_product_attention(grouped, held.keys, held.values, scale=scaling).view(query.shape)


def with_fake_keys(
    query: torch.Tensor,
    held: Context,
    keys: torch.Tensor,
    values: torch.Tensor,
    hidden: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Return kvpress's attention with its own code: entries that are not held get keys that no query attends to."""
    from kvpress.attention_patch import attention_patch

    module = SimpleNamespace(masked_key_indices=held.masked)

    def attention(_: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any) -> torch.Tensor:
        return _sdpa(query, key, value, hidden, scaling)

    result: torch.Tensor = attention_patch(attention)(module, query, held.keys, held.values, None, 0.0)
    return result


def _sdpa(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, hidden: torch.Tensor, scaling: float
) -> torch.Tensor:
    seen = None
    if query.shape[2] > 1:
        older = hidden.new_ones(*hidden.shape[:3], keys.shape[2] - hidden.shape[3])
        seen = torch.cat([older, ~hidden], dim=3)
    return scaled_dot_product_attention(query, keys, values, attn_mask=seen, scale=scaling, enable_gqa=True)


def shape(head_dim: int, entries: int, recent: int, **others: int) -> dict[str, int]:
    """Return a shape, by default with exact entries, all of which are kept."""
    usual = {"batch": 1, "heads": 1, "group": 1, "tokens": 1, "entries": entries, "recent": recent}
    stored = {"head_dim": head_dim, "least": 100, "most": 100, "key_bits": EXACT_BITS, "value_bits": EXACT_BITS}
    return usual | stored | {"cleared": 0} | others


LLAMA = {"heads": 8, "group": 4}
RAGGED_ATTENTION = Operation(
    name="attend",
    folder="ragged_attention",
    make=make,
    small=[
        shape(32, 300, 5, batch=2, heads=2, group=3, tokens=3, least=0),
        shape(128, 400, 3, heads=2, group=4, least=30, cleared=64),
        shape(256, 70, 1, group=8),
        shape(80, 1, 0, heads=2, group=2),
        shape(64, 200, 20, group=5, tokens=16),
        shape(64, 330, 3, heads=2, least=1, key_bits=8, value_bits=8, cleared=30),
        shape(128, 200, 7, group=2, key_bits=4, value_bits=4),
        shape(80, 150, 2, group=2, tokens=2, key_bits=3, value_bits=2),
        shape(256, 140, 1, group=2, key_bits=2, value_bits=3),
        shape(32, 65, 1, group=7, key_bits=EXACT_BITS, value_bits=4),
        shape(64, 100, 0, batch=2, heads=5, group=2, tokens=2, least=2, key_bits=OF_EACH, value_bits=OF_EACH),
        shape(64, 300, 5, heads=2, group=3, tokens=2, least=50, key_bits=ROTATED + 4, value_bits=ROTATED + 2),
        shape(80, 130, 1, group=2, key_bits=ROTATED + 3, value_bits=ROTATED + 1),
        shape(128, 130, 1, group=2, key_bits=ROTATED + 2, value_bits=8),
        shape(64, 0, 9, heads=2, group=2),
    ],
    large=[
        shape(128, entries, 64, **LLAMA, **kept)
        for entries in (8192, 32768, 131072)
        for kept in (
            {},
            {"least": 10, "most": 90},
            {"least": 50, "most": 50, "key_bits": 4, "value_bits": 4},
            {"least": 50, "most": 50, "key_bits": ROTATED + 3, "value_bits": ROTATED + 2},
        )
    ],
    on_cpu=[
        shape(128, 32768, 64, **LLAMA, **kept)
        for kept in (
            {},
            {"least": 50, "most": 50},
            {"least": 89, "most": 89, "key_bits": 4, "value_bits": 4},  # an eighth of the bytes
            {"key_bits": ROTATED + 4, "value_bits": ROTATED + 4},
            {"key_bits": ROTATED + 3, "value_bits": ROTATED + 2},
        )
    ],
    work=work,
    rivals={
        "sdpa over all": over_everything,
        "sdpa by group": over_everything_by_group,
        "kvpress fake keys": with_fake_keys,
    },
    # Rotated queries are rounded once more.
    tolerance={torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2},
)
