"""Stand-ins for the packages, with the names and arguments that are used of them."""

from __future__ import annotations

import sys
import zlib
from types import ModuleType, SimpleNamespace

import pytest
import torch


class RoundedToIntegers:
    """In place of E8: whole numbers between the levels."""

    @staticmethod
    def quantize_perhead(rows, levels):
        scale = rows.abs().amax(dim=-1, keepdim=True) / (levels / 2)
        return (rows / scale).round() * scale


class FirstHalf:
    """In place of the package's eviction: earlier tokens are more important."""

    sliding_window = 32

    def _score_importance(self, keys):
        return -torch.arange(keys.shape[2]).float().expand(len(keys), -1)


class FourFifths:
    """In place of TurboQuant: vectors become shorter."""

    def __init__(self, bits, head_dim, device):
        self.bits, self.head_dim = bits, head_dim

    def quantize(self, states):
        assert states.shape[-1] == self.head_dim
        return 0.8 * states, None, None, None, None


def module(name: str, **contents) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(contents)
    return made


@pytest.fixture
def nexusquant(monkeypatch):
    """Let keys be rotated by a sign where RoPE is taken away, and by nothing else."""
    press = SimpleNamespace(rope_base=5.0, rope_scaling=None, post_init_from_model=lambda model: None)

    def turned(keys, base, rope_scaling):
        assert (base, rope_scaling) == (5.0, None) and keys.dim() == 3
        return -keys

    for made in (
        module("nexusquant", NexusQuantEvict=FirstHalf),
        module("zstandard", ZstdCompressor=lambda level: SimpleNamespace(compress=zlib.compress)),
        module("nexusquant.core"),
        module("nexusquant.integrations"),
        module("nexusquant.integrations.kvpress", E8Press=lambda key_bits, value_bits: press),
        module("nexusquant.core.e8_lattice", E8Lattice=RoundedToIntegers),
        module("nexusquant.core.hadamard", hadamard_matrix=torch.eye),
        module("nexusquant.core.rope_utils", inverse_rope=turned, forward_rope=turned),
    ):
        monkeypatch.setitem(sys.modules, made.__name__, made)


@pytest.fixture
def turboquant(monkeypatch):
    monkeypatch.setitem(sys.modules, "turboquant", module("turboquant", TurboQuantProd=FourFifths))
