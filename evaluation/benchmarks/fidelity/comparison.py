"""Comparison of two sets of predictions for the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Comparison:
    """The change of predictions by compression, for one sample.

    Parameters
    ----------
    token_kl : tuple of float
        KL divergence from the full cache's predictions, in nats, after every token.
    top1 : float
        Share of tokens after which both predict the same token, in percent.
    log_perplexity_ratio : float
        Logarithm of the perplexity of the text with the compressed cache over that with the full one; 0 is equal.
    """

    token_kl: tuple[float, ...]
    top1: float
    log_perplexity_ratio: float

    @property
    def measures(self) -> dict[str, float]:
        """The sample's measures; the 95th percentile over tokens is computed over all samples."""
        kl = sum(self.token_kl) / len(self.token_kl)
        return {"kl": kl, "top1": self.top1, "log_perplexity_ratio": self.log_perplexity_ratio}


def compare(full: torch.Tensor, compressed: torch.Tensor, tokens: Sequence[int]) -> Comparison:
    """Compare log probabilities of the next token after each of ``tokens``, both of shape (tokens, vocabulary)."""
    kl = (full.exp() * (full - compressed)).sum(dim=-1)
    same = (full.argmax(dim=-1) == compressed.argmax(dim=-1)).float().mean().item() * 100
    following = torch.tensor(list(tokens[1:]), device=full.device).unsqueeze(-1)
    lost = (full[:-1].gather(-1, following) - compressed[:-1].gather(-1, following)).mean().item()
    return Comparison(tuple(float(f"{value:.4g}") for value in kl.tolist()), same, lost)
