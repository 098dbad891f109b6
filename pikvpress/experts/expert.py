"""An expert: a scorer the router can choose, with what it needs to see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from kvpress import ScorerPress

from pikvpress.experts.layer_input import LayerInput


@dataclass(frozen=True)
class Expert:
    """A named scorer and the inputs on which it is sound.

    Parameters
    ----------
    name : str
        As it appears in plans, statistics and gates.
    press : ScorerPress
        Gives scores of shape (batch, kv_heads, keys), higher = keep.
    min_tokens : int, default=1
        Fewest keys it can score: one more than the tokens it always keeps. Where it looks at hidden states
        (`reads_hidden_states`), also the fewest of those.
    reads_hidden_states : bool, default=False
        Whether it projects hidden states to queries.
    aligned : bool, default=False
        Whether hidden state i must belong to key i.
    positional : bool, default=False
        Whether key i is taken to stand at position i (sinks in front, a window at the end).
    random : bool, default=False
        Whether it draws random numbers. They are then the same at every call and leave the caller's generator alone.
    prior : float, default=1.0
        Weight, relative to the other experts', while no gates are fitted.
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
        """Return whether the expert is sound on ``num_keys`` keys, given ``num_hidden_states`` hidden states.

        Fewer keys than hidden states means that another press pruned them before: positions are lost. More means
        decoding: only the latest hidden states are at hand.
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
    """Set a press's ratio, on which some scores depend, and put its own back whatever happens."""
    before = press.compression_ratio
    press.compression_ratio = ratio
    try:
        yield
    finally:
        press.compression_ratio = before
