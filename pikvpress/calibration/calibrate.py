"""Calibration: measure, fit, validate on held-out text, and write one gates file."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pikvpress import models
from pikvpress.calibration.data.situations import Situation, make_situations
from pikvpress.calibration.data.texts import shipped_texts, split
from pikvpress.calibration.fit.budgets import HeadBudgets
from pikvpress.calibration.fit.gates import Examples, Fitting, foreseen
from pikvpress.calibration.fit.objectives import OBJECTIVES
from pikvpress.calibration.fit.queries import banks_for, choose_queries
from pikvpress.calibration.fit.saliency import fit_saliency
from pikvpress.calibration.measure.codec_curves import codec_curves
from pikvpress.calibration.measure.expert_times import expert_times
from pikvpress.calibration.measure.in_one_place import check_in_one_place
from pikvpress.calibration.measure.measurements import Measurements
from pikvpress.calibration.measure.record import Record
from pikvpress.calibration.recipe import Recipe
from pikvpress.calibration.report.findings import Findings, find
from pikvpress.calibration.report.found import Calibration
from pikvpress.calibration.steps import Report, Steps
from pikvpress.experts import CANDIDATES, Expert, SaliencyScorer, equipped, make_experts
from pikvpress.experts.saliency import NAME as SALIENCY
from pikvpress.gates import Gates, file_name, key, save_gates, user_folder
from pikvpress.routers import ROUTERS, RouterSettings, feature_names

CHOICES = (
    *("minutes", "contexts", "length", "experts", "max_experts", "routers", "objective", "worth_of_time", "seed"),
)


def calibrate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str] | None = None,
    *,
    settings: RouterSettings | None = None,
    output: str | Path | None = None,
    progress: Report | None = None,
    recipe: Recipe | None = None,
    **choices: Any,
) -> Calibration:
    """Fit gates to a model and write them where `MoERouterPress` finds them.

    Contexts with several kinds of futures are built from the texts. For each context, every expert scores every layer,
    and the cost of its selections to the futures is predicted in nats. Routers and head budgets are fitted to this
    cost, and the first router is then fitted end to end. Results that do not improve on held-out text are discarded.

    Parameters
    ----------
    model : PreTrainedModel
        A model in eval mode; restored at the end.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    texts : sequence of str, optional
        Documents similar to those that the model will read. By default the shipped texts.
    settings : RouterSettings, optional
        Settings of routers during fitting; see `MoERouterPress`, whose defaults are used by default. `top_k` and groups
        are lowered to the number of experts. The end-to-end stage applies dropout, and minimises `objective` without
        balance losses.
    output : str or Path, optional
        Where to write the gates. By default in `pikvpress.gates.user_folder()`, where presses find them.
    progress : callable, optional
        Called with the current stage, the number of completed steps and the total number of steps.
    recipe : Recipe, optional
        Every number of a calibration.
    **choices
        `minutes`, `contexts`, `length`, `experts`, `max_experts`, `routers`, `objective`, `worth_of_time` and `seed`,
        which `Recipe` describes; they override those of the recipe.

    Returns
    -------
    Calibration
        The gates, their path, and the findings.

    Raises
    ------
    ValueError
        If the model is not supported, a setting is out of range, a name is unknown, or the texts are too short.
        Existing gates are kept.
    """
    _check(model)
    plan = _Plan.made(tokenizer, texts, _recipe(recipe, settings, choices))
    fingerprint = models.fingerprint(models.attention_layers(model)[0])
    path = _checked(Path(output) if output is not None else user_folder() / file_name(fingerprint))
    return _carried_out(plan, model, path, path.parent / f".{path.stem}-{plan.digest(fingerprint)}", Steps(progress))


def _carried_out(plan: _Plan, model: PreTrainedModel, path: Path, work: Path, steps: Steps) -> Calibration:
    """Fit gates and write them; an interrupted calibration resumes from the measurements in a folder."""
    work.mkdir(parents=True, exist_ok=True)
    for expert in plan.candidates:
        expert.press.post_init_from_model(model)
    with torch.random.fork_rng(devices=[]):
        gates, findings = plan.followed(model, work, steps)
    save_gates(path, gates)
    shutil.rmtree(work)
    return Calibration(gates, path, findings)


@dataclass(frozen=True)
class _Plan:
    """The validated plan of a calibration.

    Parameters
    ----------
    recipe : Recipe
        The numbers of the calibration.
    candidates : tuple of Expert
        Experts to choose from.
    routers : tuple of str
        Routers to fit, the first of them end to end.
    fit, held : list of Situation
        The maximum number of situations: those to fit on, with those reserved for the saliency expert at the end; and
        those for validation.
    shipped : bool
        Whether they are built from the shipped texts.
    """

    recipe: Recipe
    candidates: tuple[Expert, ...]
    routers: tuple[str, ...]
    fit: list[Situation]
    held: list[Situation]
    shipped: bool

    @classmethod
    def made(cls, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str] | None, recipe: Recipe) -> _Plan:
        """Build situations from texts, and check all names."""
        candidates = make_experts(list(CANDIDATES if recipe.experts is None else recipe.experts), None)
        routers = recipe.routers
        if routers is None:
            routers = ("pikv", *(name for name in ROUTERS if name != "pikv"))
        if not routers:
            raise ValueError(f"name at least one router: {', '.join(ROUTERS)}")
        for name in routers:
            ROUTERS[name]
        if recipe.objective is not None:
            OBJECTIVES[recipe.objective]
        fit_texts, held_texts = split(shipped_texts() if texts is None else texts, recipe.held_out_documents)
        most = recipe.contexts or recipe.most_contexts
        count = most * (1 + _apart(candidates, recipe))
        fit = make_situations(tokenizer, fit_texts, count, recipe, recipe.seed)
        held = make_situations(tokenizer, held_texts, recipe.held_out_for(most), recipe, recipe.seed + 1)
        return cls(recipe, candidates, routers, fit, held, texts is None)

    def digest(self, fingerprint: Mapping[str, str]) -> str:
        """Return what must be equal to reuse measurements of an interrupted calibration."""
        contexts = [[s.context, s.futures] for s in (*self.fit[: self.recipe.fewest_contexts], *self.held[:2])]
        names = [expert.name for expert in self.candidates]
        description = [fingerprint, names, contexts, self.recipe.seed, feature_names.VERSION, version("pikvpress")]
        if changed := self.recipe.changed_measurements():
            description.append(changed)
        return hashlib.sha256(json.dumps(description).encode()).hexdigest()[:12]

    def followed(self, model: PreTrainedModel, work: Path, steps: Steps) -> tuple[Gates, Findings]:
        """Measure, fit and evaluate the fits."""
        recipe, apart = self.recipe, _apart(self.candidates, self.recipe)
        measurements = Measurements(work, model, recipe)
        paths = measurements.collect(self.fit, self.held, apart, steps)
        layers = sum(not models.is_sliding(layer) for layer in models.attention_layers(model))
        steps.plan(self._steps(layers, {use: len(found) for use, found in paths.items()}))
        fitted_saliency, candidates, figures = None, self.candidates, dict[str, object]()
        apart_records = [Record(path) for path in paths["apart"]]
        if apart:
            held_records = [Record(path) for path in paths["held"]]
            fitted_saliency, figures["saliency"] = fit_saliency(model, apart_records, held_records, recipe, steps)
            candidates = equipped(candidates, fitted_saliency.weights, fitted_saliency.hidden_weights)
        fit, held = (
            [*zip(measurements.examine(paths[use], made, candidates, steps), _futures(made), strict=True)]
            for use, made in (("fit", self.fit[: len(paths["fit"])]), ("held", self.held[: len(paths["held"])]))
        )
        examples = Examples(fit, held)
        times = expert_times(model, self.fit[0].context, candidates) if recipe.worth_of_time else ()
        found = Fitting(model, candidates, recipe, steps, times, figures).run(examples, self.routers)
        examples, names = examples.of(found.experts), [candidates[i].name for i in found.experts]
        equal, fitted = (found.routers[key(self.routers[0], kind)] for kind in ("equal", "fitted"))
        findings = find(equal, names, examples.held_records, HeadBudgets(recipe, found.curves), steps)
        in_use = fitted_saliency if SALIENCY in names else None
        measured = examples.records[: recipe.curve_contexts]
        banks = banks_for(model, measured, apart_records or examples.records[recipe.curve_contexts :], recipe)
        gates = Gates(
            model=models.fingerprint(models.attention_layers(model)[0]),
            experts=names,
            routers={name: dict(router.state_dict()) for name, router in found.routers.items()},
            curves=found.curves,
            keep_shares=recipe.keep_shares,
            ratios=recipe.ratios,
            codec_curves=codec_curves(model, fitted, measured, banks, recipe, steps),
            codecs=recipe.codec_pairs,
            saliency=None if in_use is None else in_use.weights,
            saliency_hidden=None if in_use is None else in_use.hidden_weights,
            queries=choose_queries(model, [*examples.records, *apart_records], recipe),
            about=self._about(len(fit), len(held), figures),
        )
        steps.finish("measuring codecs")
        return gates, findings

    def _steps(self, layers: int, counts: Mapping[str, int]) -> dict[str, int]:
        """Return the number of steps of each kind, given the compressed layers and the situations of each use."""
        fit, held, apart = counts["fit"], counts["held"], counts["apart"]
        steps = {"collecting": fit + held + apart}
        if apart:
            scaled = min(apart, self.recipe.curve_contexts)
            steps["fitting saliency"] = (1 + self.recipe.epochs_of_saliency) * apart + scaled + held
        steps["examining"] = fit + held
        return steps | foreseen(self.recipe, len(self.routers), len(self.candidates), layers, fit, held)

    def _about(self, fit: int, held: int, figures: dict[str, object]) -> dict[str, object]:
        """Return the description of the calibration that is stored in the gates file."""
        recipe = self.recipe
        about: dict[str, object] = {
            "pikvpress": version("pikvpress"),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "date": date.today().isoformat(),
            "contexts": fit,
            "saliency_contexts": _apart(self.candidates, recipe) * fit,
            "held_out_contexts": held,
            "length": recipe.length,
            "texts": "shipped" if self.shipped else "given",
            "seed": recipe.seed,
            "objective": recipe.objective,
        }
        if recipe.settings != RouterSettings():
            about["settings"] = asdict(recipe.settings)
        return about | {"figures": figures}


def _check(model: PreTrainedModel) -> None:
    """Raise a ``ValueError`` if gates cannot be fitted to a model."""
    models.check_supported(model)
    check_in_one_place(model, "calibrate it", "its gates then serve")
    if models.unwrapped(model) is not model:
        raise ValueError(
            "gates of a model with an adapter would take the place of those of its base model: calibrate the base "
            "model, or model.merge_and_unload()"
        )
    if models.form_of(models.attention_layers(model)[0]) == "neighbours":
        raise ValueError(
            f"{type(model).__name__} pairs neighbouring channels in its rotary positions, for which there is no "
            "calibration: use presses with their prior, gates=None"
        )


def _checked(path: Path) -> Path:
    if path.is_dir():
        raise ValueError(f"output={str(path)!r} is a folder: name a file in it")
    return path


def _apart(candidates: Sequence[Expert], recipe: Recipe) -> int:
    """Return how many contexts are reserved for the saliency expert per context to fit routers on."""
    return recipe.saliency_contexts * any(isinstance(expert.press, SaliencyScorer) for expert in candidates)


def _futures(situations: Sequence[Situation]) -> list[tuple[tuple[int, ...], ...]]:
    return [situation.futures for situation in situations]


def _recipe(recipe: Recipe | None, settings: RouterSettings | None, choices: dict[str, Any]) -> Recipe:
    """Return a recipe with the arguments that were passed by name."""
    for name in choices:
        if name not in CHOICES:
            raise TypeError(
                f"calibrate() has no argument {name!r}: choices are {', '.join(CHOICES)}; pass a recipe for other "
                "numbers"
            )
    for name in ("experts", "routers"):
        if choices.get(name) is not None:
            choices[name] = tuple(choices[name])
    if settings is not None:
        choices["settings"] = settings
    return replace(recipe or Recipe(), **choices)
