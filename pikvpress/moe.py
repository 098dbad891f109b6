"""The routers of a mixture-of-experts model itself: which of its experts read a token, and how sure they were.

"Expert" and "router" usually mean compression strategies in this package; here they are parts of the model's MLPs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.decoders import language_model
from pikvpress.devices import weights_at_hand

# Under these names, configurations of transformers have the number of experts of a layer.
COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
# Layers with one of these choose experts by other numbers than their logits (DeepSeek-V3, GLM-4 MoE, ERNIE, LFM2).
CORRECTIONS = ("correction_bias", "expert_bias")


@dataclass(frozen=True)
class ExpertChoice:
    """What the router of one layer decided about some tokens, batch by batch.

    Parameters
    ----------
    logits : torch.Tensor
        The router's logits, shape (tokens, experts), in the model's dtype.
    per_token : int
        Number of experts that read a token.
    """

    logits: torch.Tensor
    per_token: int

    @property
    def chosen(self) -> torch.Tensor:
        """The experts of each token, those with the highest logits first, int64, shape (tokens, per_token)."""
        return self.logits.topk(self.per_token, dim=-1).indices

    @property
    def entropy(self) -> torch.Tensor:
        """Entropy of the softmax over all experts, in nats, float32 (float64 of such logits), shape (tokens,)."""
        wide = torch.promote_types(self.logits.dtype, torch.float32)
        log_probabilities = self.logits.to(wide).log_softmax(dim=-1)
        return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)


def routers_of(model: PreTrainedModel) -> dict[int, nn.Module]:
    """Return the router of each layer that has one, by layer; none for a dense model.

    A router is known by its weight of shape (experts, hidden size), whatever its class, which differs between
    architectures and versions of transformers: Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE, GPT-OSS, GraniteMoE, Llama 4 and
    others. Routers that do not choose the experts with the highest logits are left out.
    """
    config: Any = model.config.get_text_config()
    numbers = [getattr(config, name, None) for name in COUNTS]
    counts = {number for number in numbers if isinstance(number, int) and number > 1}
    if not counts:
        return {}
    shapes = {(count, config.hidden_size) for count in counts}
    found = {}
    for index, layer in enumerate(language_model(model).layers):
        inside = [module for name, module in layer.named_modules() if not name.startswith("self_attn")]
        routers = [module for module in inside if _shape(module) in shapes]
        corrected = any(
            name.endswith(CORRECTIONS) for name, _ in chain(layer.named_parameters(), layer.named_buffers())
        )
        if len(routers) == 1 and not corrected:
            found[index] = routers[0]
    return found


def _shape(module: nn.Module) -> tuple[int, ...] | None:
    weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, torch.Tensor) else None


@contextmanager
def choices_seen(model: PreTrainedModel, see: Callable[[int, ExpertChoice], None]) -> Iterator[None]:
    """Call a function with the index of the layer and the choice, whenever a router of the model has chosen.

    Nothing is hooked in a dense model.

    Parameters
    ----------
    model : PreTrainedModel
        The model; hooks are removed at the end.
    see : callable
        Called in the model's forward, after each router.
    """
    per_token = getattr(model.config.get_text_config(), "num_experts_per_tok", 1)

    def after(index: int, module: Any, args: tuple, output: Any) -> None:
        if isinstance(output, torch.Tensor):  # a linear layer
            logits = output
        else:  # some return probabilities, in different places
            with torch.no_grad(), weights_at_hand(module):
                logits = linear(args[0].to(module.weight), module.weight, getattr(module, "bias", None))
        see(index, ExpertChoice(logits.detach().flatten(0, -2), getattr(module, "top_k", per_token)))

    handles = [router.register_forward_hook(partial(after, index)) for index, router in routers_of(model).items()]
    with models.hooked(handles):
        yield
