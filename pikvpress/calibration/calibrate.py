"""Calibration: collect, fit, check on held-out text, write one gates file."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pikvpress import head_features, models
from pikvpress.calibration import collect as collecting
from pikvpress.calibration.codec_curves import PAIRS, codec_curves
from pikvpress.calibration.collect import RATIOS, Record
from pikvpress.calibration.distillation import Example, distill, real_divergence
from pikvpress.calibration.findings import Findings, find
from pikvpress.calibration.objectives import Objective
from pikvpress.calibration.objectives import objective as objective_named
from pikvpress.calibration.selection import choose_experts
from pikvpress.calibration.situations import Situation, make_situations
from pikvpress.calibration.texts import shipped_texts, split
from pikvpress.calibration.training import EQUAL, KEEP_SHARES, Budgets, error_curves, predicted, train
from pikvpress.experts import Expert, available_experts, make_experts
from pikvpress.gates import Gates, file_name, key, save_gates, user_folder
from pikvpress.gating import make_router
from pikvpress.routers import ROUTERS, Router, RouterSettings, router_class

FEWEST, MOST = 4, 64  # contexts to fit on
CHOOSING = 10  # contexts that experts are chosen on: two of each kind
COLLECTING = 0.125  # share of the time in which the contexts to fit on are measured
EPOCHS, EPOCHS_OF_OTHERS, EPOCHS_END_TO_END = 6, 3, 8
BUDGETS = ("equal", "fitted")

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Parameters
    ----------
    gates : Gates
        As written.
    path : Path
        Where.
    findings : Findings
        What the report shows.
    """

    gates: Gates
    path: Path
    findings: Findings


def calibrate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str] | None = None,
    *,
    minutes: float = 15.0,
    contexts: int | None = None,
    length: int = 1024,
    experts: Sequence[str] | None = None,
    max_experts: int = 4,
    routers: Sequence[str] | None = None,
    objective: str | None = "kl",
    seed: int = 0,
    output: str | Path | None = None,
    progress: Report | None = None,
) -> Calibration:
    """Fit gates for a model and write them where `MoERouterPress` finds them.

    Contexts with several kinds of futures are made from the texts. For each, every expert scores every layer, and what
    its selections would cost the futures is predicted in nats. Routers and head budgets are fitted to that, the first
    router then end to end. Nothing is kept that held-out text does not agree with.

    Parameters
    ----------
    model : PreTrainedModel
        In eval mode; left as it was found.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer.
    texts : sequence of str, optional
        Documents like those that the model will read. By default the ones that ship.
    minutes : float, default=15.0
        About how long it may take: decides how many contexts are fitted on, from 4 to 64.
    contexts : int, optional
        How many contexts to fit on instead.
    length : int, default=1024
        Tokens of a context.
    experts : sequence of str, optional
        Candidates, by name. By default all registered ones.
    max_experts : int, default=4
        How many of them the gates may use: each costs time in every prefill. If there are more, those are chosen with
        which the model's predictions change least.
    routers : sequence of str, optional
        Router types to fit, the first of them end to end. By default all, "pikv" first.
    objective : str, optional, default="kl"
        What the end-to-end stage minimises; see `pikvpress.calibration.objectives`. None leaves the stage out.
    seed : int, default=0
        Of all random choices.
    output : str or Path, optional
        Where to write the gates. By default in `pikvpress.gates.user_folder()`, where they are found by the model.
    progress : callable, optional
        Called with what is being done, how many steps are done, and how many there are.

    Returns
    -------
    Calibration
        The gates, where they are, and what was found.

    Raises
    ------
    ValueError
        If the model is not supported, a setting is out of range, a name unknown, or the texts are too short. Gates
        that were there stay.
    """
    models.check_supported(model)
    names = list(available_experts() if experts is None else experts)
    candidates = make_experts(names, None)
    types = list(routers) if routers is not None else ["pikv", *(name for name in ROUTERS if name != "pikv")]
    _check(minutes, contexts, max_experts, types)
    stage = objective_named(objective) if objective is not None else None
    fit_texts, held_texts = split(shipped_texts() if texts is None else texts)
    most = contexts or MOST
    situations = make_situations(tokenizer, fit_texts, most, length, seed)
    held = make_situations(tokenizer, held_texts, max(5, most // 4), length, seed + 1)
    fingerprint = models.fingerprint(models.attention_layers(model)[0])
    path = Path(output) if output is not None else user_folder() / file_name(fingerprint)
    if path.is_dir():
        raise ValueError(f"output={str(path)!r} is a folder: name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.parent / f".{path.stem}-{_digest(fingerprint, names, situations, held, seed)}"
    work.mkdir(exist_ok=True)
    for expert in candidates:
        expert.press.post_init_from_model(model)
    steps = _Steps(progress)
    with torch.random.fork_rng(devices=[]):
        fit_records, held_records = _collect(model, candidates, situations, held, work, minutes, contexts, steps)
        situations, held = situations[: len(fit_records)], held[: len(held_records)]
        rounds = max_experts if len(candidates) > max_experts else 0
        steps.plan(len(fit_records), len(held_records), rounds, len(types), stage is not None)
        calibration = _Fit(model, candidates, seed, steps).run(
            fit_records, held_records, situations, held, types, max_experts, stage
        )
    about = {
        "pikvpress": version("pikvpress"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": date.today().isoformat(),
        "contexts": len(situations),
        "held_out_contexts": len(held),
        "length": length,
        "texts": "shipped" if texts is None else "given",
        "seed": seed,
        "objective": objective,
        "figures": calibration.figures,
    }
    gates = Gates(
        model=fingerprint,
        experts=calibration.experts,
        routers=calibration.routers,
        curves=calibration.curves,
        keep_shares=KEEP_SHARES,
        ratios=RATIOS,
        codec_curves=calibration.codec_curves,
        codecs=PAIRS,
        about=about,
    )
    save_gates(path, gates)
    shutil.rmtree(work)
    return Calibration(gates, path, calibration.findings)


@dataclass
class _Fitted:
    experts: list[str]
    routers: dict[str, dict[str, torch.Tensor]]
    curves: torch.Tensor
    codec_curves: torch.Tensor
    figures: dict[str, object]
    findings: Findings


class _Steps:
    """Counts the work, so that a bar can show how much is left. A step is one visit of one context."""

    # How long they take, relative to each other.
    SIZES: ClassVar = {
        "collecting": 30,
        "choosing experts": 30,
        "fitting": 1,
        "measuring error curves": 4,
        "measuring codecs": 12,
        "fitting end to end": 4,
        "checking on held-out text": 9,
    }

    def __init__(self, report: Report | None):
        self._report = report
        self._planned: dict[str, int] = {}
        self._done: Counter[str] = Counter()

    def plan(self, fit: int, held: int, rounds: int, routers: int, end_to_end: bool) -> None:
        """Foresee everything behind collecting, which has been done."""
        looks = 3 + end_to_end  # the prior is looked at too
        self._planned = {
            "collecting": fit + held,
            "choosing experts": rounds * min(CHOOSING, fit),
            "fitting": fit * (EPOCHS + len(BUDGETS) * (2 * EPOCHS + (routers - 1) * EPOCHS_OF_OTHERS)),
            "measuring error curves": (3 if rounds else 2) * fit,
            "measuring codecs": fit,
            "fitting end to end": len(BUDGETS) * fit * EPOCHS_END_TO_END * end_to_end,
            "checking on held-out text": held * (len(BUDGETS) * looks + 1),
        }
        self._done["collecting"] = fit + held

    def collected(self, done: int, total: int) -> None:
        if self._report is not None:
            self._report("collecting", done, total)

    def __call__(self, what: str) -> None:
        self._done[what] += 1
        if self._report is not None:
            done = sum(min(count, self._planned[name]) * self.SIZES[name] for name, count in self._done.items())
            total = sum(count * self.SIZES[name] for name, count in self._planned.items())
            self._report(what, done, total)


def _collect(
    model: PreTrainedModel,
    experts: Sequence[Expert],
    situations: Sequence[Situation],
    held: Sequence[Situation],
    work: Path,
    minutes: float,
    contexts: int | None,
    steps: _Steps,
) -> tuple[list[Path], list[Path]]:
    """Measure situations into files, those that are there already excepted; as many as time allows."""
    scaling = [layer.scaling for layer in models.attention_layers(model)]

    def measured(name: str, number: int, situation: Situation) -> Path:
        path = work / f"{name}-{number:03d}.safetensors"
        if not path.exists():
            began = time.perf_counter()
            tensors = collecting.collect(model, situation, experts, number)
            collecting.save(path, tensors, situation.kind, scaling, time.perf_counter() - began)
        return path

    first = [measured("fit", number, situations[number]) for number in range(2)]
    seconds = min(Record(path).seconds for path in first)  # the first one also warms up
    count = contexts or int(min(MOST, max(FEWEST, COLLECTING * 60 * minutes / seconds)))
    held_count = max(5, count // 4)
    everything = [("fit", n, s) for n, s in enumerate(situations[:count])]
    everything += [("held", n, s) for n, s in enumerate(held[:held_count])]
    paths = []
    for done, item in enumerate(everything):
        steps.collected(done, len(everything))
        paths.append(measured(*item))
    return paths[:count], paths[count:]


@dataclass
class _Fit:
    """Fitting, after everything has been collected."""

    model: PreTrainedModel
    candidates: Sequence[Expert]
    seed: int
    steps: _Steps
    figures: dict[str, object] = field(default_factory=dict)

    def run(
        self,
        fit_paths: Sequence[Path],
        held_paths: Sequence[Path],
        situations: Sequence[Situation],
        held: Sequence[Situation],
        types: Sequence[str],
        max_experts: int,
        stage: Objective | None,
    ) -> _Fitted:
        chosen = self._choose(fit_paths, situations, types[0], max_experts)
        experts = [self.candidates[i] for i in chosen]
        names = [expert.name for expert in experts]
        records = [Record(path, chosen) for path in fit_paths]
        router = self._router("base", experts)
        train(router, [router.static], records, EQUAL, EPOCHS, self.seed, self.steps)
        curves = self._curves(router, records)
        held_records = [Record(path, chosen) for path in held_paths]
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
        return _Fitted(names, parameters, curves, by_codec, self.figures, findings)

    def _choose(self, paths: Sequence[Path], situations: Sequence[Situation], router_type: str, most: int) -> list[int]:
        count = len(self.candidates)
        if count <= most:
            return list(range(count))
        examples = [(Record(path), situation.futures) for path, situation in zip(paths, situations, strict=True)]

        def make(chosen: Sequence[int]) -> Router:
            return self._router(router_type, [self.candidates[i] for i in chosen])

        everyone = self._router(router_type, self.candidates)
        budgets = Budgets(self._curves(everyone, [record for record, _ in examples]))
        return choose_experts(self.model, make, count, most, examples[:CHOOSING], budgets, self.steps)

    def _router(self, name: str, experts: Sequence[Expert]) -> Router:
        settings = RouterSettings(top_k=min(RouterSettings.top_k, len(experts)))
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
        """Fit the static part, let features move away from it, then fit end to end.

        After each stage the model's predictions behind held-out contexts decide whether it is kept.
        """
        records = [record for record, _ in examples]
        found: dict[str, torch.Tensor] = {}
        best, kept = "prior", _copy(router)

        def look(stage: str) -> None:
            nonlocal best, kept
            found[stage] = real_divergence(self.model, router, held, budgets, self.steps)
            if _relative(found[stage], found["prior"]) < _relative(found[best], found["prior"]):
                best, kept = stage, _copy(router)
            router.load_state_dict(kept)

        look("prior")
        with torch.no_grad():
            router.static.copy_(start)
        for stage, parameters in (("static", [router.static]), ("features", [router.static, router.evidence])):
            train(router, parameters, records, budgets, EPOCHS, self.seed, self.steps)
            look(stage)
        if objective is not None:
            parameters = list(router.parameters())
            scales, epochs = found[best].clamp_min(1e-6), EPOCHS_END_TO_END
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
        train(router, list(router.parameters()), records, budgets, EPOCHS_OF_OTHERS, self.seed, self.steps)
        after = predicted(router, held, budgets)
        better = _relative(after, before) < 1
        if not better:
            router.load_state_dict(kept)
        self.figures[name] = {
            "predicted_divergence": {"as the first": before.tolist(), "its own": after.tolist()},
            "kept": "its own" if better else "as the first",
        }
        return router


def _relative(values: torch.Tensor, base: torch.Tensor) -> float:
    """Return the mean over ratios of one divergence relative to another."""
    return float((values / base.clamp_min(1e-12)).mean())


def _copy(router: Router) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in router.state_dict().items()}


def _digest(
    fingerprint: dict[str, str], experts: Sequence[str], fit: Sequence[Situation], held: Sequence[Situation], seed: int
) -> str:
    """Return what must be equal for measurements of an interrupted calibration to be used again."""
    contexts = [[s.context, s.futures] for s in (*fit[:FEWEST], *held[:2])]
    description = json.dumps([fingerprint, list(experts), contexts, seed, head_features.VERSION, version("pikvpress")])
    return hashlib.sha256(description.encode()).hexdigest()[:12]


def _check(minutes: float, contexts: int | None, max_experts: int, routers: Sequence[str]) -> None:
    if not minutes > 0:
        raise ValueError(f"minutes must be more than 0, got {minutes}")
    if contexts is not None and contexts < 2:
        raise ValueError(f"at least 2 contexts are needed, not {contexts}")
    if max_experts < 1:
        raise ValueError(f"max_experts must be at least 1, got {max_experts}")
    if not routers:
        raise ValueError(f"name at least one router: {', '.join(ROUTERS)}")
    for name in routers:
        router_class(name)
