"""Fitting routers and budgets to what was collected; held-out contexts decide what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.calibration.codec_curves import codec_curves
from pikvpress.calibration.collect import Record
from pikvpress.calibration.distillation import Example, distill, real_divergence
from pikvpress.calibration.findings import Findings, find
from pikvpress.calibration.objectives import Objective
from pikvpress.calibration.selection import choose_experts
from pikvpress.calibration.situations import Situation
from pikvpress.calibration.steps import Steps
from pikvpress.calibration.training import EQUAL, Budgets, blend_by_costs, error_curves, expert_costs, predicted, train
from pikvpress.experts import Expert
from pikvpress.gates import key
from pikvpress.routers import Router, RouterSettings
from pikvpress.routing.make_router import make_router

EPOCHS, EPOCHS_OF_OTHERS, EPOCHS_END_TO_END = 9, 2, 8
LEAST_GAIN = 0.02  # of looking at the input, which takes time in every prefill
BUDGETS = ("equal", "fitted")

Files = tuple[Path, Path]  # of a measured situation, and of what experts saw of it


def foreseen(fit: int, held: int, candidates: int, max_experts: int, routers: int, end_to_end: bool) -> dict[str, int]:
    """Return how many steps of each kind fitting will take."""
    chooses = candidates > max_experts
    looks = 3 + end_to_end  # the prior is looked at too
    return {
        "comparing experts": fit,
        "fitting": fit * (EPOCHS * (1 + chooses) + len(BUDGETS) * (2 * EPOCHS + (routers - 1) * EPOCHS_OF_OTHERS)),
        "measuring error curves": 2 * fit,
        "measuring codecs": fit,
        "fitting end to end": len(BUDGETS) * fit * EPOCHS_END_TO_END * end_to_end,
        "checking on held-out text": held * (len(BUDGETS) * looks + 1),
    }


@dataclass
class Fitted:
    """What was fitted: as in `Gates`, and what is told of it."""

    experts: list[str]
    routers: dict[str, dict[str, torch.Tensor]]
    curves: torch.Tensor
    codec_curves: torch.Tensor
    figures: dict[str, object]
    findings: Findings


@dataclass
class Fit:
    """Fitting, after everything has been collected.

    Parameters
    ----------
    model : PreTrainedModel
        Left as it was found.
    candidates : sequence of Expert
        What was measured.
    seed : int
        Random seed.
    steps : Steps
        Told of every step.
    figures : dict
        Filled with what held-out contexts said of every stage.
    """

    model: PreTrainedModel
    candidates: Sequence[Expert]
    seed: int
    steps: Steps
    figures: dict[str, object] = field(default_factory=dict)

    def run(
        self,
        fit_paths: Sequence[Files],
        held_paths: Sequence[Files],
        situations: Sequence[Situation],
        held: Sequence[Situation],
        types: Sequence[str],
        max_experts: int,
        stage: Objective | None,
    ) -> Fitted:
        """Choose experts, fit routers for equal and for fitted budgets, and look at what they do."""
        everything = [Record(*files) for files in fit_paths]
        attention = models.attention_layers(self.model)
        shape = len(attention), models.num_key_value_heads(attention[0])
        start = blend_by_costs(expert_costs(everything, *shape, self.steps))
        chosen = self._choose(everything, start, max_experts)
        experts = [self.candidates[i] for i in chosen]
        names = [expert.name for expert in experts]
        records = [Record(*files, chosen) for files in fit_paths]
        router = self._router("static", experts)
        with torch.no_grad():
            router.static.copy_(start[..., chosen])
        train(router, [router.static], records, EQUAL, EPOCHS, self.seed, self.steps)
        curves = self._curves(router, records)
        held_records = [Record(*files, chosen) for files in held_paths]
        examples = [(record, situation.futures) for record, situation in zip(records, situations, strict=True)]
        checked = [(record, situation.futures) for record, situation in zip(held_records, held, strict=True)]
        start = router.static.detach()
        routers: dict[str, Router] = {}
        for kind in BUDGETS:
            budgets = EQUAL if kind == "equal" else Budgets(curves)
            first = self._router(types[0], experts)
            self._fit_first(first, key(types[0], kind), start, examples, checked, budgets, stage)
            routers[key(types[0], kind)] = first
            if kind == "fitted":
                curves = self._curves(first, records)
            for name in types[1:]:
                other = self._fit_other(key(name, kind), name, experts, first, records, held_records, budgets)
                routers[key(name, kind)] = other
        findings = find(routers[key(types[0], "equal")], names, held_records, Budgets(curves), self.steps)
        parameters = {name: dict(router.state_dict()) for name, router in routers.items()}
        first = routers[key(types[0], "fitted")]
        by_codec = codec_curves(first, records, first.static.shape[0], self.steps)
        return Fitted(names, parameters, curves, by_codec, self.figures, findings)

    def _choose(self, records: Sequence[Record], start: torch.Tensor, most: int) -> list[int]:
        count = len(self.candidates)
        if count <= most:
            return list(range(count))
        router = self._router("static", self.candidates)
        with torch.no_grad():
            router.static.copy_(start)
        return choose_experts(router, records, most, EPOCHS, self.seed, self.steps)

    def _router(self, name: str, experts: Sequence[Expert]) -> Router:
        default, count = RouterSettings(), len(experts)
        settings = RouterSettings(top_k=min(default.top_k, count), num_groups=min(default.num_groups, count))
        return make_router(name, experts, models.attention_layers(self.model)[0], settings)

    def _curves(self, router: Router, records: Sequence[Record]) -> torch.Tensor:
        return error_curves(router, records, router.static.shape[0], self.steps)

    def _fit_first(
        self,
        router: Router,
        name: str,
        start: torch.Tensor,
        examples: Sequence[Example],
        held: Sequence[Example],
        budgets: Budgets,
        objective: Objective | None,
    ) -> None:
        """Fit the static part alone; let features move; then go on end to end with what moves by then.

        After each stage the model's predictions behind held-out contexts decide whether it is kept. Features must lower
        their divergence by 2 %: a router that looks at none of them spares the press to measure them.
        """
        records = [record for record, _ in examples]
        found: dict[str, torch.Tensor] = {}
        best, kept = "prior", _copy(router)

        def look(stage: str, gain: float = 0.0) -> None:
            nonlocal best, kept
            found[stage] = real_divergence(self.model, router, held, budgets, self.steps)
            if _relative(found[stage], found["prior"]) < (1 - gain) * _relative(found[best], found["prior"]):
                best, kept = stage, _copy(router)
            router.load_state_dict(kept)

        look("prior")
        with torch.no_grad():
            router.static.copy_(start)
            router.evidence.zero_()
        train(router, [router.static], records, budgets, EPOCHS, self.seed, self.steps)
        look("static")
        train(router, [router.static, router.evidence], records, budgets, EPOCHS, self.seed, self.steps)
        look("features", LEAST_GAIN)
        if objective is not None:
            scales, epochs, parameters = found[best].clamp_min(1e-6), EPOCHS_END_TO_END, _moving(router)
            distill(self.model, router, parameters, examples, budgets, objective, scales, epochs, self.seed, self.steps)
            look("end to end")
        self.figures[name] = {"divergence": {stage: values.tolist() for stage, values in found.items()}, "kept": best}

    def _fit_other(
        self,
        name: str,
        router_type: str,
        experts: Sequence[Expert],
        first: Router,
        records: Sequence[Record],
        held: Sequence[Record],
        budgets: Budgets,
    ) -> Router:
        """Start from what the first router has learnt, and go on with this one's own choices and losses."""
        router = self._router(router_type, experts)
        router.load_state_dict(first.state_dict())
        kept, before = _copy(router), predicted(router, held, budgets)
        train(router, _moving(router), records, budgets, EPOCHS_OF_OTHERS, self.seed, self.steps)
        after = predicted(router, held, budgets)
        better = _relative(after, before) < 1
        if not better:
            router.load_state_dict(kept)
        self.figures[name] = {
            "predicted_divergence": {"as the first": before.tolist(), "its own": after.tolist()},
            "kept": "its own" if better else "as the first",
        }
        return router


def _moving(router: Router) -> list[torch.nn.Parameter]:
    """Return the parameters of a router that looks at the input, or of one that does not."""
    return [router.static, router.evidence] if router.looks() else [router.static]


def _relative(values: torch.Tensor, base: torch.Tensor) -> float:
    """Return the mean over ratios of one divergence relative to another."""
    return float((values / base.clamp_min(1e-12)).mean())


def _copy(router: Router) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in router.state_dict().items()}
