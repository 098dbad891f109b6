"""The baseline of a codec from elsewhere: a press removes tokens, and the codec's bytes for the others are counted."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from kvpress import BasePress, ScorerPress
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.kernels.compact import gather_rows
from pikvpress.presses.checks import checked_ratio


@dataclass
class CodedPress(BasePress):
    """Remove tokens with a press and pass the others through a codec, so that a share of the bytes is left.

    Keys and values are replaced by what they are after coding and decoding; the cache itself holds plain numbers, and
    `nbytes` counts what the codec would store. Every layer has the same budget, and keeps as many tokens as fit in it:
    all heads of a layer the same number, those with the highest scores.

    Parameters
    ----------
    press : ScorerPress
        The press that chooses the tokens, by keys and values as they were before coding.
    compression_ratio : float, default=0.0
        Share of the bytes to save, in [0, 1).

    Attributes
    ----------
    nbytes : int
        Bytes of the context that was compressed last, over all layers so far.
    """

    press: ScorerPress
    compression_ratio: float = 0.0
    nbytes: int = field(default=0, init=False)

    @abstractmethod
    def code(self, states: torch.Tensor, is_keys: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what keys or values are after coding, and what they take.

        Parameters
        ----------
        states : torch.Tensor
            All keys or values of a layer, in the order of their positions, (batch, kv_heads, tokens, head_dim).
        is_keys : bool
            Whether these are keys.

        Returns
        -------
        states : torch.Tensor
            The same shape and dtype.
        bits : torch.Tensor
            Bits that each vector takes, scales included, (batch, kv_heads, tokens).
        """

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Prepare the press for a model and a new context."""
        self.nbytes = 0
        self.press.post_init_from_model(model)

    def compress(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor,
        kwargs: dict,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and values of the kept tokens after coding, in the order of their positions."""
        budget = 8 * (keys.nbytes + values.nbytes) * (1 - checked_ratio(self.compression_ratio))
        coded_keys, key_bits = self.code(keys, True)
        coded_values, value_bits = self.code(values, False)
        bits = (key_bits + value_bits).double()
        total = bits.sum().item()
        if total <= budget:
            self.nbytes += math.ceil(total / 8)
            return coded_keys, coded_values
        self.press.compression_ratio = 1 - budget / total  # some presses score by it
        scores = self.press.score(module, hidden_states, keys, values, attentions, kwargs)
        order = scores.argsort(dim=-1, descending=True)
        needed = bits.gather(2, order).cumsum(dim=2).sum(dim=(0, 1))
        kept = max(1, int((needed <= budget).sum()))
        self.nbytes += math.ceil(needed[kept - 1].item() / 8)
        positions = order[:, :, :kept].sort(dim=-1).values
        return gather_rows(coded_keys, positions), gather_rows(coded_values, positions)
