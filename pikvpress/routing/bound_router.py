"""A router bound to a model: it scores the entries of layers and decides what they keep."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from kvpress import BasePress
from kvpress.utils import compute_n_kept

from pikvpress import models
from pikvpress.budgets import Budget, Decision, ModelShape, ScoredLayer, worth_by_curves
from pikvpress.experts import BatchRow, Expert, LayerInput
from pikvpress.gates import Gates, key
from pikvpress.kernels.blend import blend, transport
from pikvpress.plan import describe_heads
from pikvpress.routers import Router, Routing
from pikvpress.routing.examination import Examination, able_experts
from pikvpress.routing.make_router import make_router
from pikvpress.routing.recorder import Recorder
from pikvpress.routing.router_spec import RouterSpec, routed_for
from pikvpress.support.finite import refuse_not_finite

logger = logging.getLogger(__name__)

# Wrappers that evict by a threshold leave the ratio at 0; experts are then compared at this ratio.
NOMINAL_RATIO = 0.5

# The signature of `examine`: experts, layer, ratio, and whether head features are needed.
Examiner = Callable[[Sequence[Expert], LayerInput, float, bool], Examination]


@dataclass(frozen=True, eq=False)
class BoundRouter:
    """A press's router for one model. Only the record of its decisions changes after construction.

    Parameters
    ----------
    config : PretrainedConfig
        Configuration that identifies the model.
    experts : tuple of Expert
        In the order of the routers' weights, with access to the model if it was passed on.
    gates : Gates or None
        The model's gates that were fitted for this router and these experts.
    routers : mapping of str to Router
        Routers by kind of budgets.
    budgets : mapping of str to Budget
        Budgets by kind.
    used : mapping of str to sequence of list of int, or None
        For each kind of budgets the experts that some head of each layer uses, so that others need not be computed.
        None if that depends on the input.
    examiner : callable
        `examine`, or a replacement for it.
    record : Recorder
        Records all decisions.
    """

    config: Any
    experts: tuple[Expert, ...]
    gates: Gates | None
    routers: Mapping[str, Router]
    budgets: Mapping[str, Budget]
    used: Mapping[str, Sequence[list[int]] | None]
    examiner: Examiner
    record: Recorder

    @torch.no_grad()
    def score(self, layer: LayerInput, budgets: str, ratio: float) -> ScoredLayer:
        """Return the scored entries of a layer.

        Parameters
        ----------
        layer : LayerInput
            The layer.
        budgets : str
            Kind of budgets that the scores are for.
        ratio : float
            Share to remove, at which experts are compared.

        Raises
        ------
        ValueError
            If there are no keys, no expert can score the layer, or there are NaN or infinite values.
        """
        scored, routing, num_kept = self._scored(layer, budgets, ratio)
        self.record.record(layer.index, routing, (layer.keys, layer.values), layer.num_keys, num_kept)
        return scored

    def _scored(self, layer: LayerInput, budgets: str, ratio: float) -> tuple[ScoredLayer, Routing, int]:
        """Return the scored entries of a layer, its routing, and the number of tokens to keep per head."""
        asked = self.budgets[budgets].share_removed(ratio, layer.num_keys)
        compared = asked or NOMINAL_RATIO
        if not layer.shard.is_whole:  # experts communicate, and must not fail on one rank alone
            with layer.shard.together(layer.keys.device):
                refuse_not_finite(layer.index, layer.tensors)
        router = self.routers[budgets].to(layer.keys.device)
        if self.gates is not None and self.gates.curves is not None:
            used = self.used[budgets]
            if used is None:
                routing, order, _ = self._measured(router, layer, compared)
            else:
                routing, order = self._blended(router, layer, compared, used[layer.index])
            worth = worth_by_curves(self.gates, compared, layer.index, layer.num_keys)
            worth = layer.shard.cut(worth, 0).to(order.device)
            scores = transport(order, worth.expand_as(order))
        else:
            routing, order, mass = self._measured(router, layer, compared)
            scores = transport(order, mass)
        num_kept = compute_n_kept(layer.num_keys, asked)
        if logger.isEnabledFor(logging.DEBUG):
            heads = describe_heads([expert.name for expert in self.experts], routing.weights.mean(dim=0).tolist())
            logger.debug("layer %d: keep %d of %d; heads: %s", layer.index, num_kept, layer.num_keys, heads)
        return ScoredLayer(layer.module, layer.keys, layer.values, scores, routing.weights), routing, num_kept

    def _blended(
        self, router: Router, layer: LayerInput, ratio: float, used: Sequence[int]
    ) -> tuple[Routing, torch.Tensor]:
        """Return the routing of a layer and the blended ranks, with only the used experts that can score it."""
        able = able_experts(self.experts, layer.num_keys, layer.hidden_states.shape[1])
        computed = [index for index in used if index in able] or able
        seen = self.examiner([self.experts[index] for index in computed], layer, ratio, False)
        batch, heads = len(layer.keys), layer.shard.total
        unmeasured = torch.zeros(batch, heads, len(router.evidence), device=layer.keys.device)
        routing = router(layer.index, unmeasured, self._among(computed, layer))
        return routing, blend(seen.ranked, layer.shard.cut(routing.weights, 1)[..., computed])

    def _measured(self, router: Router, layer: LayerInput, ratio: float) -> tuple[Routing, torch.Tensor, torch.Tensor]:
        """Return the routing of a layer, the blended ranks, and the probes' attention, with all experts measured."""
        seen = self.examiner(self.experts, layer, ratio, True)
        assert seen.mass is not None
        features = layer.shard.gathered(seen.features, 1)  # some routers balance the heads of the whole model
        routing = router(layer.index, features, self._among(seen.available, layer))
        return routing, blend(seen.ranked, layer.shard.cut(routing.weights, 1)[..., seen.available]), seen.mass

    def _among(self, available: Sequence[int], layer: LayerInput) -> torch.Tensor:
        mask = torch.zeros(len(self.experts), dtype=torch.bool, device=layer.keys.device)
        mask[list(available)] = True
        return mask

    def rank(self, layer: LayerInput, budgets: str, ratio: float) -> Sequence[Decision]:
        """Return the decisions that can be made after this layer: for this layer, for none yet, or for several.

        Raises
        ------
        ValueError
            As `score`.
        """
        return self.budgets[budgets].decide(self.score(layer, budgets, ratio), ratio)

    @torch.no_grad()
    def rank_rows(self, layer: LayerInput, rows: Sequence[BatchRow], budgets: str, ratio: float) -> list[Decision]:
        """Return a decision for each row of a padded batch; for budgets that do not wait for later layers.

        Raises
        ------
        ValueError
            As `score`.
        """
        scored = [self._scored(row.layer, budgets, ratio) for row in rows]
        routing = Routing(
            torch.cat([one.weights for _, one, _ in scored]),
            torch.stack([one.auxiliary_loss for _, one, _ in scored]).mean(),
        )
        num_keys, num_kept = sum(row.layer.num_keys for row in rows), sum(kept for *_, kept in scored)
        means = round(num_keys / len(rows)), round(num_kept / len(rows))
        self.record.record(layer.index, routing, (layer.keys, layer.values), *means)
        return [self.budgets[budgets].decide(one, ratio)[0] for one, *_ in scored]


def bind(
    spec: RouterSpec,
    module: models.Attention,
    gates: Gates | None,
    budgets: Mapping[str, type[Budget]],
    shape: ModelShape | None,
    examiner: Examiner,
    record: Recorder,
) -> BoundRouter:
    """Bind a router to a model.

    Parameters
    ----------
    spec : RouterSpec
        The requested router.
    module : Attention
        Any attention layer of the model.
    gates : Gates, optional
        The model's gates.
    budgets : mapping of str to type of Budget
        The kinds of budgets that may be used.
    shape : ModelShape, optional
        The model's shape; None inside wrappers that do not pass the model on.
    examiner, record
        See `BoundRouter`.

    Raises
    ------
    ValueError
        If an expert is fitted by calibration and there are no gates, or a kind of budgets needs the missing shape.
    """
    experts = spec.equipped_for(gates)
    if shape is None:
        _refuse_unknown_model(experts, budgets)
    settings = spec.settings_for(experts)
    routers = {kind: make_router(spec.router_type, experts, module, settings) for kind in budgets}
    if gates is not None:
        names = [expert.name for expert in experts]
        for kind, router in routers.items():
            router.load_state_dict(dict(gates.parameters(spec.router_type, names, routed_for(kind))))
    made = {kind: budget(gates, shape) for kind, budget in budgets.items()}
    used = {kind: _used(router) for kind, router in routers.items()}
    record.describe(spec.router_type, [expert.name for expert in experts], fitted=gates is not None)
    return BoundRouter(module.config, experts, gates, routers, made, used, examiner, record)


def _used(router: Router) -> list[list[int]] | None:
    """Return the experts that some head of each layer uses, or None if the router looks at the input."""
    if router.looks():
        return None
    unmeasured = torch.zeros(1, router.static.shape[1], len(router.evidence))
    every = torch.ones(router.num_experts, dtype=torch.bool)
    weights = (router(layer, unmeasured, every).weights for layer in range(router.static.shape[0]))
    return [part.flatten(0, 1).any(dim=0).nonzero()[:, 0].tolist() for part in weights]


def knows_router(gates: Gates, spec: RouterSpec, budgets: str) -> bool:
    """Return whether gates have parameters for the router of a kind of budgets."""
    return key(spec.router_type, routed_for(budgets)) in gates.routers


def _refuse_unknown_model(experts: Sequence[Expert], budgets: Mapping[str, type[Budget]]) -> None:
    """Raise a ``ValueError`` if experts or budgets need a model that the wrapper press has not passed on."""
    way_out = "call press.post_init_from_model(model) on the MoERouterPress first"
    for kind, budget in budgets.items():
        if budget.needs_shape:
            raise ValueError(f"{kind} budgets need the model, which the wrapper press does not pass on: {way_out}")
    for expert in experts:
        if type(expert.press).post_init_from_model is not BasePress.post_init_from_model:
            raise ValueError(
                f"expert {expert.name} needs the model, which the wrapper press does not pass on: {way_out}"
            )
