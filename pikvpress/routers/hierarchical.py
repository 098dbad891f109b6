"""The hierarchical router."""

from __future__ import annotations

import torch

from pikvpress.routers.base import Router, top_k_mask
from pikvpress.routers.settings import RouterSettings


class HierarchicalRouter(Router):
    """Choose groups of experts first, then experts inside the chosen groups.

    The experts, in the given order, are divided into `num_groups` consecutive groups whose sizes differ by at most one.
    A group's probability is the sum over its experts. The `group_top_k` most probable groups are kept, and within them
    the `top_k` most probable experts, as in the device-limited routing of DeepSeek-V2
    (https://arxiv.org/abs/2405.04434).
    """

    @staticmethod
    def check(settings: RouterSettings, num_experts: int) -> None:
        """Raise a ``ValueError`` if there are more groups, or more requested experts, than experts."""
        Router.check(settings, num_experts)
        if settings.num_groups > num_experts:
            raise ValueError(
                f"num_groups={settings.num_groups} leaves groups empty with {num_experts} experts: lower num_groups, "
                "or pass more experts"
            )

    def select(self, probabilities: torch.Tensor, available: torch.Tensor) -> torch.Tensor:
        """Return which experts each head uses, bool, shape (batch, kv_heads, experts)."""
        groups = self.settings.num_groups
        member = torch.arange(self.num_experts, device=probabilities.device) * groups // self.num_experts
        share = torch.zeros(*probabilities.shape[:-1], groups, dtype=probabilities.dtype, device=probabilities.device)
        share = share.index_add(-1, member, probabilities)
        open_groups = top_k_mask(share, self.settings.group_top_k)
        inside = open_groups[..., member]
        return super().select(probabilities.masked_fill(~inside, 0), available & inside)
