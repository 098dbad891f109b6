"""Fitting routers and budgets to measurements, with validation on held-out contexts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.calibration.fit.budgets import HeadBudgets, error_curves
from pikvpress.calibration.fit.choose import blend_by_costs, choose_experts, expert_costs
from pikvpress.calibration.fit.end_to_end import EndToEndLosses, Example, fit_end_to_end, real_divergence
from pikvpress.calibration.fit.loop import HeldOut
from pikvpress.calibration.fit.objectives import OBJECTIVES
from pikvpress.calibration.fit.prune import leave_one, prune
from pikvpress.calibration.fit.routers import fit_router, predicted
from pikvpress.calibration.measure.record import Record
from pikvpress.calibration.recipe import Recipe
from pikvpress.calibration.steps import Progress
from pikvpress.experts import Expert
from pikvpress.gates import key
from pikvpress.routers import Router, RouterSettings
from pikvpress.routing.make_router import make_router

BUDGETS = ("equal", "fitted")


@dataclass(frozen=True)
class Examples:
    """Measured situations, to fit on and held out, with their futures."""

    fit: Sequence[Example]
    held: Sequence[Example]

    @property
    def records(self) -> list[Record]:
        """Records of the situations to fit on."""
        return [record for record, _ in self.fit]

    @property
    def held_records(self) -> list[Record]:
        """Records of the held-out situations."""
        return [record for record, _ in self.held]

    def of(self, experts: Sequence[int]) -> Examples:
        """Return the examples as they would be with only some of the experts."""
        fit, held = ([(record.of(experts), futures) for record, futures in part] for part in (self.fit, self.held))
        return Examples(fit, held)


@dataclass(frozen=True)
class FittedRouters:
    """The result of fitting.

    Parameters
    ----------
    experts : list of int
        Indices of the candidates that are used.
    routers : dict of str to Router
        Routers by `pikvpress.gates.key`.
    curves : torch.Tensor
        Error curves of the first router with fitted budgets, as in `HeadBudgets`.
    """

    experts: list[int]
    routers: dict[str, Router]
    curves: torch.Tensor


def foreseen(recipe: Recipe, routers: int, candidates: int, layers: int, fit: int, held: int) -> dict[str, int]:
    """Return the number of steps of each kind of fitting.

    Parameters
    ----------
    recipe : Recipe
        The numbers of the calibration.
    routers, candidates, layers : int
        Numbers of routers to fit, of candidate experts, and of layers that are compressed.
    fit, held : int
        Numbers of contexts to fit on and held out.
    """
    chooses, end_to_end = candidates > recipe.max_experts, recipe.objective is not None
    looks = 3 + end_to_end  # the prior is measured as well
    epochs = recipe.epochs * (1 + chooses) + len(BUDGETS) * (
        2 * recipe.epochs + (routers - 1) * recipe.epochs_of_others
    )
    return {
        "comparing experts": fit,
        "fitting": fit * epochs,
        "measuring error curves": 2 * fit,
        "measuring codecs": min(fit, recipe.curve_contexts),
        "fitting end to end": len(BUDGETS) * fit * recipe.epochs_end_to_end * end_to_end,
        "pruning": len(BUDGETS) * layers * (recipe.worth_of_time > 0),
        "checking on held-out text": held * (len(BUDGETS) * (looks + 2 * (recipe.worth_of_time > 0)) + 1),
    }


@dataclass
class Fitting:
    """Fitting, after all measurements.

    Parameters
    ----------
    model : PreTrainedModel
        The model, which is restored at the end.
    candidates : sequence of Expert
        The measured experts.
    recipe : Recipe
        The numbers of the calibration.
    progress : callable
        Called after every step.
    times : sequence of float
        Time of each candidate, as a share of the prefill; not needed if `Recipe.worth_of_time` is 0.
    figures : dict
        Filled with the results of every stage on held-out contexts.
    """

    model: PreTrainedModel
    candidates: Sequence[Expert]
    recipe: Recipe
    progress: Progress
    times: Sequence[float]
    figures: dict[str, object] = field(default_factory=dict)

    def run(self, examples: Examples, types: Sequence[str]) -> FittedRouters:
        """Choose experts, and fit routers for equal and for fitted budgets."""
        chosen, start = self._choose(examples.records)
        examples, experts = examples.of(chosen), [self.candidates[i] for i in chosen]
        times = [self.times[i] for i in chosen if self.times]
        records, equal = examples.records, HeadBudgets(self.recipe)
        router = self._router("static", experts, start)
        fit_router(router, [router.static], records, equal, self.recipe.epochs, self.progress)
        curves, start = self._curves(router, records), router.static.detach()
        routers: dict[str, Router] = {}
        for kind in BUDGETS:
            budgets = equal if kind == "equal" else HeadBudgets(self.recipe, curves)
            first = self._router(types[0], experts)
            held_out = self._fit_first(first, start, examples, budgets)
            if not first.looks() and self.recipe.worth_of_time > 0:
                prune(first, records, budgets, times, self.progress)
                held_out.look("pruned", -self.recipe.most_loss)
                leave_one(first)  # each layer's cost says nothing about blends that do harm together
                held_out.look("one expert", -self.recipe.most_loss)
            self.figures[key(types[0], kind)] = held_out.figures("divergence")
            routers[key(types[0], kind)] = first
            if kind == "fitted":
                curves = self._curves(first, records)
            for name in types[1:]:
                other = self._router(name, experts)
                other.load_state_dict(first.state_dict())
                if first.looks():  # otherwise its blend is fixed, and what is best for one router is for all
                    self._fit_other(other, key(name, kind), examples, budgets)
                routers[key(name, kind)] = other
        return FittedRouters(chosen, routers, curves)

    def _choose(self, records: Sequence[Record]) -> tuple[list[int], torch.Tensor]:
        """Return the experts to use, and the static blend of them that fitting starts from."""
        attention = models.attention_layers(self.model)
        shape = len(attention), models.num_key_value_heads(attention[0])
        costs = expert_costs(records, *shape, self.recipe, self.progress)
        start, chosen = blend_by_costs(costs, self.recipe.sharpness), [*range(len(self.candidates))]
        if len(chosen) > self.recipe.max_experts:
            router = self._router("static", self.candidates, start)
            chosen = choose_experts(router, records, self.recipe, self.progress)
        return chosen, start[..., chosen]

    def _router(self, name: str, experts: Sequence[Expert], static: torch.Tensor | None = None) -> Router:
        """Return a router that is unfitted or has a given static part."""
        settings = for_experts(self.recipe.settings, len(experts))
        router = make_router(
            name, experts, models.attention_layers(self.model)[0], settings, self.recipe.router_classes
        )
        if static is not None:
            with torch.no_grad():
                router.static.copy_(static)
        return router

    def _curves(self, router: Router, records: Sequence[Record]) -> torch.Tensor:
        return error_curves(router, records, self.recipe, self.progress)

    def _fit_first(self, router: Router, start: torch.Tensor, examples: Examples, budgets: HeadBudgets) -> HeldOut:
        """Fit the static part alone, then with features, then end to end with the parameters in use by then.

        Each stage is kept only if it improves the model's predictions after held-out contexts. Features must lower the
        divergence by `Recipe.least_gain`, because a router that uses none of them saves the press their measurement.
        """
        recipe, progress, records = self.recipe, self.progress, examples.records
        held_out = HeldOut(
            router, lambda: real_divergence(self.model, router, examples.held, budgets, progress), first="prior"
        )
        with torch.no_grad():
            router.static.copy_(start)
            router.evidence.zero_()
        fit_router(router, [router.static], records, budgets, recipe.epochs, progress)
        held_out.look("static")
        fit_router(router, [router.static, router.evidence], records, budgets, recipe.epochs, progress)
        held_out.look("features", recipe.least_gain)
        if recipe.objective is not None:
            scales = held_out.found[held_out.best].clamp_min(1e-6)
            generator = torch.Generator().manual_seed(recipe.seed)
            losses = EndToEndLosses(self.model, router, budgets, OBJECTIVES[recipe.objective], scales, generator)
            fit_end_to_end(losses, _moving(router), examples.fit, progress)
            held_out.look("end to end")
        return held_out

    def _fit_other(self, router: Router, name: str, examples: Examples, budgets: HeadBudgets) -> None:
        """Start from the first router's parameters, and continue with this router's own selection and losses."""
        held_out = HeldOut(router, lambda: predicted(router, examples.held_records, budgets), first="as the first")
        epochs = self.recipe.epochs_of_others
        fit_router(router, _moving(router), examples.records, budgets, epochs, self.progress)
        held_out.look("its own")
        self.figures[name] = held_out.figures("predicted_divergence")


def for_experts(settings: RouterSettings, count: int) -> RouterSettings:
    """Return settings adapted to the number of experts: at most that many are blended, in at most that many groups."""
    groups = min(settings.num_groups, count)
    return replace(
        settings,
        top_k=min(settings.top_k, count),
        num_groups=groups,
        group_top_k=min(settings.group_top_k, groups),
    )


def _moving(router: Router) -> list[torch.nn.Parameter]:
    """Return the parameters to fit, with or without those that look at the input."""
    return [router.static, router.evidence] if router.looks() else [router.static]
