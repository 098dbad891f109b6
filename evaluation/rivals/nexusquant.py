"""NexusQuant, the package nexusquant-kv (https://github.com/jagmarques/nexusquant): E8 lattice points, and eviction.

Its press and caches only simulate: they quantise, dequantise and keep plain numbers. The bytes counted here are those
of the format that it describes, lattice points under a lossless code and a 16-bit scale for each vector.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from kvpress import ScorerPress
from transformers import PreTrainedModel

from evaluation.coded import CodedPress
from pikvpress import models

BLOCK = 8  # coordinates of a point of E8
SCALE_BITS = 16
INTEGERS, HALVES, LAST_EVEN, LAST_ODD = range(4)


@dataclass
class NexusQuantPress(CodedPress):
    """Code keys and values by points of the lattice E8, as its ``E8Press`` does: keys without RoPE, both rotated.

    A layer's points are counted by whichever takes fewer bits, an entropy code (`point_bits`) or zstd, the keys and the
    values each.

    Parameters
    ----------
    press, compression_ratio
        As in `CodedPress`.
    key_bits, value_bits : int, default=2
        Nominal bits per coordinate: points lie between -2^(bits - 1) and 2^(bits - 1). The package recommends 3 for
        keys and 2 for values, and 2 for both with eviction.
    """

    key_bits: int = 2
    value_bits: int = 2
    _package: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("key_bits", "value_bits"):
            bits = getattr(self, name)
            if isinstance(bits, bool) or bits not in (1, 2, 3, 4):
                raise ValueError(f"{name} must be 1, 2, 3 or 4, got {bits!r}")

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Prepare the press for a model: the package's own press finds its rotary embedding."""
        from nexusquant.integrations.kvpress import E8Press

        super().post_init_from_model(model)
        self._package = E8Press(key_bits=self.key_bits, value_bits=self.value_bits)
        self._package.post_init_from_model(model)

    def code(self, states: torch.Tensor, is_keys: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what keys or values are after coding, and the bits of each vector."""
        from nexusquant.core.e8_lattice import E8Lattice
        from nexusquant.core.hadamard import hadamard_matrix
        from nexusquant.core.rope_utils import forward_rope, inverse_rope

        levels = 2 ** (self.key_bits if is_keys else self.value_bits)
        rope = {"base": self._package.rope_base, "rope_scaling": self._package.rope_scaling}
        rotation = hadamard_matrix(states.shape[3]).to(states.device).float()
        plain = states.float()
        if is_keys:
            plain = torch.stack([inverse_rope(row, **rope) for row in plain])
        rows = (plain @ rotation).flatten(0, 2)
        points = E8Lattice.quantize_perhead(rows, levels=levels)
        scales = rows.abs().amax(dim=-1, keepdim=True) / (levels / 2)
        doubled = (2 * points / scales.clamp(min=torch.finfo(torch.float32).tiny)).round().long()
        bits = point_bits(doubled)
        favourable = min(1.0, zstd_bits(doubled) / max(1.0, bits.sum().item()))
        bits = (favourable * bits).view(states.shape[:3]) + SCALE_BITS
        decoded = points.view(states.shape) @ rotation.T
        if is_keys:
            decoded = torch.stack([forward_rope(row, **rope) for row in decoded])
        return decoded.to(states.dtype), bits


def point_bits(doubled: torch.Tensor) -> torch.Tensor:
    """Return the bits of vectors of lattice points under an entropy code fitted to them, (vectors,).

    The code knows that the eight coordinates of a point are all integers or all halves, and that the sum of integers is
    even. The package's own entropy coder takes more, since it codes coordinates one by one, and the tables of
    frequencies are not counted. But it does not see vectors that occur again, as `zstd_bits` does.

    Parameters
    ----------
    doubled : torch.Tensor
        Twice the coordinates, integers, (vectors, a multiple of 8).
    """
    blocks = doubled.unflatten(1, (-1, BLOCK)).flatten(0, 1)
    halves = blocks[:, 0] % 2 != 0
    context = torch.where(halves, HALVES, INTEGERS).unsqueeze(1).repeat(1, BLOCK)
    odd = (blocks[:, :-1].sum(dim=1) // 2) % 2 != 0
    context[:, -1] = torch.where(halves, HALVES, torch.where(odd, LAST_ODD, LAST_EVEN))
    symbols = blocks - blocks.min()
    counts = torch.zeros(4, int(symbols.max()) + 1, dtype=torch.float64, device=doubled.device)
    counts.index_put_((context, symbols), counts.new_ones(()), accumulate=True)
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    kinds = torch.bincount(halves.long(), minlength=2).double() / len(halves)
    bits = -shares[context, symbols].log2().sum(dim=1) - kinds[halves.long()].log2()
    return bits.view(len(doubled), -1).sum(dim=1)


def zstd_bits(doubled: torch.Tensor) -> int:
    """Return the bits of all points under zstd, by which the package measures its compression.

    Tokens that occur again in a context have similar keys without RoPE, in the first layers the same. Of tokens that
    are kept, fewer occur again than of all tokens, for which this counts.

    Parameters
    ----------
    doubled : torch.Tensor
        Twice the coordinates, integers of 8 bits, (vectors, a multiple of 8).
    """
    from zstandard import ZstdCompressor

    return 8 * len(ZstdCompressor(level=22).compress(doubled.to(torch.int8).cpu().numpy().tobytes()))


@dataclass
class KeyKeyPress(ScorerPress):
    """NexusQuant's own eviction: in all layers the tokens whose keys resemble the latest keys in the first layer.

    The first token and the last 32 are always kept, as in the package.
    """

    _importance: torch.Tensor | None = field(default=None, init=False, repr=False)

    def score(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor,
        kwargs: dict,
    ) -> torch.Tensor:
        """Return the scores of the first layer for every head, (batch, kv_heads, keys)."""
        from nexusquant import NexusQuantEvict

        if module.layer_idx == 0:
            evictor = NexusQuantEvict()
            self._importance = evictor._score_importance(keys)
            always = [0, *range(max(0, keys.shape[2] - evictor.sliding_window), keys.shape[2])]
            self._importance[:, always] = torch.inf
        assert self._importance is not None
        return self._importance.unsqueeze(1).expand(keys.shape[:3])
