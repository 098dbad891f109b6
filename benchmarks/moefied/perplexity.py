"""How well a model predicts texts, and how far its predictions are from another one's."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel


@torch.no_grad()
def logits_of(model: PreTrainedModel, ids: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a model's logits for one text after the other, float32, shape (tokens, vocabulary)."""
    for text in ids:
        yield model(text.unsqueeze(0).to(model.device), use_cache=False).logits[0].float().cpu()


def perplexity(model: PreTrainedModel, ids: torch.Tensor) -> float:
    """Return the perplexity of texts, ids of shape (texts, tokens), each predicted from its second token on."""
    losses = [cross_entropy(found[:-1], text[1:]) for found, text in zip(logits_of(model, ids), ids, strict=True)]
    return math.exp(float(torch.stack(losses).mean()))


def largest_difference(model: PreTrainedModel, other: PreTrainedModel, ids: torch.Tensor) -> float:
    """Return the largest difference between two models' logits."""
    pairs = zip(logits_of(model, ids), logits_of(other, ids), strict=True)
    return max(float((one - two).abs().max()) for one, two in pairs)
