"""The cache-aware PiKV router."""

from __future__ import annotations

import torch

from pikvpress.routers.base import Router

# λ of the unfitted gate's -λ · log(1 + miss).
MISS_PENALTY = 1.0


class PiKVRouter(Router):
    """Take the cache into account when routing: budget, context length, and the attention each expert would lose.

    PiKV (https://arxiv.org/abs/2508.06526) subtracts λ · log(1 + miss_e) from the logit of expert e. There the miss is
    a counter. Here it is measured: the share of the probe queries' attention to keys that the expert would evict at
    this budget. With `cache_aware=False`, this is the base router.
    """

    def begin(self, evidence: torch.Tensor) -> None:
        """Set what the unfitted router makes of errors and, if it is cache-aware, of misses."""
        super().begin(evidence)
        if self.settings.cache_aware:
            evidence[self.num_experts : 2 * self.num_experts].fill_diagonal_(-MISS_PENALTY)

    def sees(self, feature: str) -> bool:
        """Return whether this router looks at a head feature; a cache-aware one looks at all of them."""
        return self.settings.cache_aware or super().sees(feature)
