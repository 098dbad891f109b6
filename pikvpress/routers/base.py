"""The base router: a linear gate on head features, softmax, top-k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from pikvpress.routers.losses import switch_loss
from pikvpress.routers.settings import RouterSettings

# How strongly measured errors affect the unfitted gate: weights are prior / error ** EVIDENCE, normalised.
EVIDENCE = 0.5
# Smaller weights are 0, so that experts which calibration has taken away from a head need not be computed for it.
NEGLIGIBLE = 1e-6
# Head features that only a cache-aware router sees.
CACHE_FEATURES = ("missed/", "context_length", "keep_share")


class Routing(NamedTuple):
    """A router's decision for one layer.

    Attributes
    ----------
    weights : torch.Tensor
        Gate weights, shape (batch, kv_heads, experts), at most `top_k` non-zero, rows summing to 1.
    auxiliary_loss : torch.Tensor
        Scalar that fitting adds to its loss to control how evenly experts are used.
    """

    weights: torch.Tensor
    auxiliary_loss: torch.Tensor


class Router(nn.Module):
    """Route each KV head to the `top_k` experts of the highest gate probability (https://arxiv.org/abs/1701.06538).

    logits = static[layer, head] + features @ evidence; probabilities = softmax(logits / temperature); the `top_k`
    largest are kept and normalised to sum to 1. The auxiliary loss is that of the Switch Transformer
    (https://arxiv.org/abs/2101.03961).

    Until gates are fitted, `static` is the log of the experts' prior weights and `evidence` is -1/2 for each expert's
    own `error/` feature and 0 elsewhere. This is a deterministic prior in which an expert's weight is inversely
    proportional to the square root of its measured retained error.

    Parameters
    ----------
    prior : sequence of float
        Positive prior weight of each expert.
    features : sequence of str
        Names of the head features, the first `len(prior)` of them `error/` features.
    num_layers, num_heads : int
        Numbers of layers and KV heads of the model.
    settings : RouterSettings
        Checked settings.

    Raises
    ------
    ValueError
        If `top_k` exceeds the number of experts.
    """

    seen: torch.Tensor

    def __init__(
        self,
        prior: Sequence[float],
        features: Sequence[str],
        num_layers: int,
        num_heads: int,
        settings: RouterSettings,
    ):
        super().__init__()
        self.settings = settings
        self.num_experts = len(prior)
        self.check(settings, self.num_experts)
        log_prior = torch.tensor(prior, dtype=torch.float32).log()
        self.static = nn.Parameter(log_prior.expand(num_layers, num_heads, -1).clone())
        self.evidence = nn.Parameter(torch.zeros(len(features), self.num_experts))
        with torch.no_grad():
            self.begin(self.evidence)
        seen = torch.tensor([self.sees(name) for name in features], dtype=torch.float32)
        self.register_buffer("seen", seen, persistent=False)
        self.dropout = nn.Dropout(settings.dropout)
        self.eval()

    def begin(self, evidence: torch.Tensor) -> None:
        """Set what the unfitted router makes of head features, shape (features, experts), zeros so far, in place."""
        evidence[: self.num_experts].fill_diagonal_(-EVIDENCE)

    @staticmethod
    def check(settings: RouterSettings, num_experts: int) -> None:
        """Raise a ``ValueError`` if the settings request more experts than there are."""
        if settings.top_k > num_experts:
            raise ValueError(
                f"top_k={settings.top_k} chooses more experts than the {num_experts} given: lower it to at most "
                f"{num_experts}, or pass more experts"
            )

    def sees(self, feature: str) -> bool:
        """Return whether this router looks at the head feature with this name."""
        return not feature.startswith(CACHE_FEATURES)

    def looks(self) -> bool:
        """Return whether any head feature affects the gate."""
        return bool((self.seen.unsqueeze(1) * self.evidence).any())

    def probabilities(self, layer: int, features: torch.Tensor, available: torch.Tensor) -> torch.Tensor:
        """Return gate probabilities, shape (batch, kv_heads, experts), 0 for experts that are not available."""
        seen = self.dropout(features.float() * self.seen)
        logits = self.static[layer] + seen @ self.evidence
        return (logits / self.settings.temperature).masked_fill(~available, -torch.inf).softmax(dim=-1)

    def select(self, probabilities: torch.Tensor, available: torch.Tensor) -> torch.Tensor:
        """Return which experts each head uses, bool, shape (batch, kv_heads, experts)."""
        chosen = top_k_mask(probabilities, self.settings.top_k)
        if self.settings.adaptive_top_k:
            chosen &= confident_mask(probabilities, self.settings.importance_threshold)
        return chosen & available

    def auxiliary_loss(self, probabilities: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Return the load-balancing loss of a layer, a scalar."""
        return self.settings.aux_loss_weight * switch_loss(probabilities, chosen)

    def forward(self, layer: int, features: torch.Tensor, available: torch.Tensor) -> Routing:
        """Route the heads of one layer.

        Parameters
        ----------
        layer : int
            Index of the layer.
        features : torch.Tensor
            Head features, shape (batch, kv_heads, features).
        available : torch.Tensor
            Which experts can score the input, bool, shape (experts,), at least one.
        """
        probabilities = self.probabilities(layer, features, available)
        chosen = self.select(probabilities, available)
        weights = probabilities * chosen
        total = weights.sum(dim=-1, keepdim=True)
        even = chosen / chosen.sum(dim=-1, keepdim=True)  # if all that is left to a head has no probability
        weights = torch.where(total > 0, weights / total.clamp_min(1e-30), even)
        weights = weights.masked_fill(weights < NEGLIGIBLE, 0)
        return Routing(weights, self.auxiliary_loss(probabilities, chosen))


def top_k_mask(probabilities: torch.Tensor, k: int) -> torch.Tensor:
    """Return a bool mask of the ``k`` largest entries of each row; ties go to the first."""
    order = probabilities.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(probabilities, dtype=torch.bool).scatter_(-1, order[..., :k], True)


def confident_mask(probabilities: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return a bool mask of the fewest largest entries of each row that sum to ``threshold`` or more, at least one."""
    order = probabilities.argsort(dim=-1, descending=True, stable=True)
    ordered = probabilities.gather(-1, order)
    before = ordered.cumsum(dim=-1) - ordered
    needed = before < threshold
    needed[..., 0] = True
    return torch.zeros_like(needed).scatter_(-1, order, needed)
