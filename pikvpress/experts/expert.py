"""An expert: a scorer that the router can choose, with its requirements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from kvpress import ScorerPress

from pikvpress.experts.layer_input import LayerInput


@dataclass(frozen=True)
class Expert:
    """A named scorer and the inputs that it can handle.

    Parameters
    ----------
    name : str
        Name used in plans, statistics and gates.
    press : ScorerPress
        Computes scores of shape (batch, kv_heads, keys), higher = keep.
    min_tokens : int, default=1
        Minimum number of keys it can score: one more than the number of tokens it always keeps. If it reads hidden
        states (`reads_hidden_states`), also their minimum number.
    reads_hidden_states : bool, default=False
        Whether it projects hidden states to queries.
    aligned : bool, default=False
        Whether hidden state i must belong to key i.
    positional : bool, default=False
        Whether it assumes that key i is at position i (sinks at the start, a window at the end).
    random : bool, default=False
        Whether it draws random numbers. They are then the same in every call and do not change the state of the
        caller's generator.
    prior : float, default=1.0
        Weight relative to the other experts, as long as no gates are fitted.
    """

    name: str
    press: ScorerPress
    min_tokens: int = 1
    reads_hidden_states: bool = False
    aligned: bool = False
    positional: bool = False
    random: bool = False
    prior: float = 1.0

    def can_score(self, num_keys: int, num_hidden_states: int) -> bool:
        """Return whether the expert can score ``num_keys`` keys, given ``num_hidden_states`` hidden states.
        Fewer keys than hidden states means that another press has pruned keys, so that positions are lost. More keys
        mean decoding, with only the latest hidden states available.
        """
        if num_keys < self.min_tokens or (self.reads_hidden_states and num_hidden_states < self.min_tokens):
            return False
        if self.aligned and num_keys != num_hidden_states:
            return False
        return not (self.positional and num_keys < num_hidden_states)

    def score(self, layer: LayerInput, compression_ratio: float) -> torch.Tensor:
        """Return the press's scores (batch, kv_heads, keys) at ``compression_ratio``; the press is left unchanged."""
        of_layer = layer.hidden_states, layer.keys, layer.values, layer.attentions, layer.kwargs
        with _compression_ratio_of(self.press, compression_ratio), self._own_random_numbers(layer.keys.device):
            return self.press.score(layer.view, *of_layer)  # type: ignore[arg-type]

    @contextmanager
    def _own_random_numbers(self, device: torch.device) -> Iterator[None]:
        if not self.random:
            yield
            return
        with torch.random.fork_rng([device] if device.type != "cpu" else [], device_type=device.type):
            torch.manual_seed(0)
            yield


@contextmanager
def _compression_ratio_of(press: ScorerPress, ratio: float) -> Iterator[None]:
    """Set a press's ratio, on which some scores depend, and restore its own ratio on exit."""
    before = press.compression_ratio
    press.compression_ratio = ratio
    try:
        yield
    finally:
        press.compression_ratio = before
