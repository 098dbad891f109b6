"""The record of a router press's last prefill. Tensors stay on their device until they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pikvpress.budgets import Decision
from pikvpress.moe import ExpertChoice
from pikvpress.plan import LayerPlan, MoELoad, Plan
from pikvpress.routers import Routing
from pikvpress.stopwatch import Stopwatch


@dataclass
class _LayerEntry:
    routing: Routing
    num_keys: int
    tokens_asked: int
    head_tokens: list[int] | None
    length: int
    bytes_before: int
    bytes_after: int
    codecs: list[tuple[str, str]] | None = None
    bytes_held: int | None = None

    def plan(self, layer: int, later: int) -> LayerPlan:
        """Return the decisions, including `later` tokens, all of which were kept."""
        tokens = self.num_keys + later
        more = later * self.bytes_before // self.length
        return LayerPlan(
            layer=layer,
            num_keys=tokens,
            weights=self.routing.weights.tolist(),
            tokens_asked=max(1, self.tokens_asked * tokens // self.num_keys),
            head_tokens=None if self.head_tokens is None else [count + later for count in self.head_tokens],
            bytes_before=self.bytes_before + more,
            bytes_after=self.bytes_after + more if self.bytes_held is None else self.bytes_held,
            codecs=self.codecs,
        )


@dataclass
class _LoadEntry:
    """Sums over tokens: how often each expert was chosen (experts,), the entropy, and how many tokens there were."""

    per_token: int
    counts: torch.Tensor
    entropy: torch.Tensor
    tokens: torch.Tensor

    def load(self, layer: int) -> MoELoad:
        tokens = int(self.tokens)
        shares = [count / max(1, tokens) for count in self.counts.tolist()]
        return MoELoad(layer, tokens, self.per_token, shares, float(self.entropy) / max(1, tokens))


class Recorder:
    """Collect the decisions of one prefill.

    Attributes
    ----------
    press, prefill : Stopwatch
        Time spent by the press, and by the entire prefill if it is observed.
    """

    def __init__(self) -> None:
        self._router, self._fitted = "", False
        self._experts: list[str] = []
        self.reset()

    def describe(self, router: str, experts: list[str], fitted: bool) -> None:
        """Set the name of the router, the experts that it routes to, and whether its gates are fitted."""
        self._router, self._experts, self._fitted = router, experts, fitted

    def reset(self) -> None:
        """Clear the record; a new prefill begins."""
        self._entries: dict[int, _LayerEntry] = {}
        self._loads: dict[int, _LoadEntry] = {}
        self._latest = -1
        self._later = 0
        self.press = Stopwatch()
        self.prefill = Stopwatch()

    def enter(self, layer: int) -> None:
        """Note that a layer is about to be scored. A layer before the latest one means that a new prefill has begun."""
        if layer < self._latest:
            self.reset()
        self._latest = layer

    def record(
        self,
        layer: int,
        routing: Routing,
        states: tuple[torch.Tensor, torch.Tensor],
        num_keys: int,
        tokens_asked: int,
    ) -> None:
        """Record a layer's routing; for a layer scored in several parts, only the last part is recorded.

        Parameters
        ----------
        layer : int
            Index of the layer.
        routing : Routing
            Its routing, of all heads of the model, of which keys and values may be those of one rank.
        states : pair of torch.Tensor
            Keys and values, shape (batch, kv_heads, entries, head_dim).
        num_keys, tokens_asked : int
            Tokens per head, and how many of them to keep; the means over the rows of a padded batch.
        """
        held, length = states[0].shape[1:3]
        size = sum(part.nbytes for part in states) // held * routing.weights.shape[1]
        self._entries[layer] = _LayerEntry(routing, num_keys, tokens_asked, None, length, size, size)

    def selected(self, decision: Decision, nbytes: int) -> None:
        """Record how many tokens the heads of a layer keep, in how many bytes and in which codecs.

        The record is of the whole model: what other ranks keep is collected from them, unless it is known.
        """
        entry, shard = self._entries[decision.layer.index], decision.layer.shard
        if not decision.is_ragged:
            entry.head_tokens = decision.head_tokens() * shard.ranks
            entry.bytes_after = nbytes * shard.ranks
            return
        of_ranks = shard.collected((decision.head_tokens(), nbytes, decision.head_codecs()))
        entry.head_tokens = [count for tokens, _, _ in of_ranks for count in tokens]
        entry.bytes_after = sum(size for _, size, _ in of_ranks)
        if decision.codecs is not None:
            entry.codecs = [pair for _, _, codecs in of_ranks for pair in codecs or ()]

    def continued(self, tokens: int) -> None:
        """Record that more tokens of the context were read, all of which are kept."""
        self._later += tokens

    def chosen(self, layer: int, choice: ExpertChoice, real: torch.Tensor | None) -> None:
        """Record which of the model's own experts a layer's router chose for more tokens of the context.

        Parameters
        ----------
        layer : int
            Index of the layer.
        choice : ExpertChoice
            The choice.
        real : torch.Tensor, optional
            Which tokens are no padding, bool, shape (tokens,). By default, all.
        """
        chosen, entropy = choice.chosen, choice.entropy
        real = torch.ones_like(entropy, dtype=torch.bool) if real is None else real.to(entropy.device)
        weights = real.long()
        counts = weights.new_zeros(choice.logits.shape[-1])
        counts.scatter_add_(0, chosen.flatten(), weights.repeat_interleave(choice.per_token))
        found = _LoadEntry(choice.per_token, counts, (entropy * weights).sum(), weights.sum())
        if (before := self._loads.get(layer)) is not None:
            found.counts += before.counts
            found.entropy += before.entropy
            found.tokens += before.tokens
        self._loads[layer] = found

    def held(self, nbytes: list[int]) -> None:
        """Record the bytes that a cache holds, by layer, if they were counted."""
        for index, entry in self._entries.items():
            entry.bytes_held = nbytes[index]

    def plan(self, compression_ratio: float) -> Plan:
        """Return the decisions as plain numbers."""
        layers = [entry.plan(index, self._later) for index, entry in sorted(self._entries.items())]
        times = self.press.seconds, self.prefill.seconds or None
        moe = [entry.load(index) for index, entry in sorted(self._loads.items())]
        return Plan(self._router, self._fitted, self._experts, compression_ratio, layers, *times, self._later, moe)

    def stats(self, plan: Plan) -> dict[str, Any]:
        """Return the figures of `MoERouterPress.get_stats`."""
        losses = {index: float(entry.routing.auxiliary_loss) for index, entry in sorted(self._entries.items())}
        kept = [layer.tokens_kept for layer in plan.layers]
        selected = [number for number in kept if number is not None]
        keys = sum(layer.num_keys for layer in plan.layers)
        whole = len(selected) == len(kept) and keys > 0
        return {
            "compression_ratio": plan.compression_ratio,
            "reached_ratio": 1 - sum(selected) / keys if whole else None,
            "tokens_asked": sum(layer.tokens_asked for layer in plan.layers),
            "tokens_kept": sum(selected) if whole else None,
            "bytes_before": plan.bytes_before,
            "bytes_after": plan.bytes_after,
            "press_seconds": plan.press_seconds,
            "prefill_seconds": plan.prefill_seconds,
            "press_share": plan.press_share,
            "expert_shares": plan.expert_shares(),
            "avg_aux_loss": sum(losses.values()) / max(1, len(losses)),
            "layer_stats": {
                layer.layer: {
                    "tokens_asked": layer.tokens_asked,
                    "tokens_kept": layer.tokens_kept,
                    "head_tokens": layer.head_tokens,
                    "num_keys": layer.num_keys,
                    "expert_weights": layer.head_weights(),
                    "aux_loss": losses[layer.layer],
                }
                for layer in plan.layers
            },
            "moe": {load.layer: {"load": load.load, "entropy": load.entropy} for load in plan.moe},
        }
