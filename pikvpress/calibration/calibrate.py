"""Calibration: collect, fit, check on held-out text, write one gates file."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pikvpress import models
from pikvpress.calibration import collect as collecting
from pikvpress.calibration.codec_curves import PAIRS
from pikvpress.calibration.collect import RATIOS, Record
from pikvpress.calibration.findings import Findings
from pikvpress.calibration.fit import Files, Fit, foreseen
from pikvpress.calibration.objectives import OBJECTIVES
from pikvpress.calibration.saliency import EPOCHS, fit_saliency
from pikvpress.calibration.situations import Situation, make_situations
from pikvpress.calibration.steps import Report, Steps
from pikvpress.calibration.texts import shipped_texts, split
from pikvpress.calibration.training import KEEP_SHARES
from pikvpress.experts import CANDIDATES, Expert, SaliencyScorer, equipped, make_experts
from pikvpress.experts.saliency import NAME as SALIENCY
from pikvpress.gates import Gates, file_name, save_gates, user_folder
from pikvpress.routers import ROUTERS, feature_names

FEWEST, MOST = 4, 64  # contexts to fit routers on
APART = 4  # times as many on which the saliency expert is fitted, so that routers see it as it is on new text
COLLECTING = 0.0375  # share of the time in which the contexts to fit routers on are measured


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
        About how long it may take: decides how many contexts routers are fitted on, from 4 to 64.
    contexts : int, optional
        How many contexts to fit routers on instead. The expert "saliency" is fitted on four times as many others.
    length : int, default=1024
        Tokens of a context.
    experts : sequence of str, optional
        Candidates, by name. By default `CANDIDATES`: "saliency", which is fitted here, and `DEFAULT_EXPERTS`.
    max_experts : int, default=4
        How many of them the gates may use: each costs time in every prefill. If there are more, those are left out that
        a fitted blend hardly uses.
    routers : sequence of str, optional
        Router types to fit, the first of them end to end. By default all, "pikv" first.
    objective : str, optional, default="kl"
        What the end-to-end stage minimises; see `pikvpress.calibration.objectives`. None leaves the stage out.
    seed : int, default=0
        Random seed.
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
    names = list(CANDIDATES if experts is None else experts)
    candidates = make_experts(names, None)
    types = list(routers) if routers is not None else ["pikv", *(name for name in ROUTERS if name != "pikv")]
    _check(minutes, contexts, max_experts, types)
    stage = OBJECTIVES[objective] if objective is not None else None
    fit_texts, held_texts = split(shipped_texts() if texts is None else texts)
    most = contexts or MOST
    apart = APART * any(isinstance(expert.press, SaliencyScorer) for expert in candidates)
    situations = make_situations(tokenizer, fit_texts, most * (1 + apart), length, seed)
    held = make_situations(tokenizer, held_texts, _held(most), length, seed + 1)
    fingerprint = models.fingerprint(models.attention_layers(model)[0])
    path = Path(output) if output is not None else user_folder() / file_name(fingerprint)
    if path.is_dir():
        raise ValueError(f"output={str(path)!r} is a folder: name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.parent / f".{path.stem}-{_digest(fingerprint, names, situations, held, seed)}"
    work.mkdir(exist_ok=True)
    for expert in candidates:
        expert.press.post_init_from_model(model)
    steps = Steps(progress)
    with torch.random.fork_rng(devices=[]):
        paths = _collect(model, situations, held, apart, work, minutes, contexts, steps)
        situations, held = situations[: len(paths["fit"])], held[: len(paths["held"])]
        fit, held_out = len(situations), len(held)
        steps.plan(
            {"collecting": sum(map(len, paths.values()))}
            | ({"fitting saliency": (2 + EPOCHS) * len(paths["apart"]) + 2 * held_out} if apart else {})
            | {"examining": fit + held_out}
            | foreseen(fit, held_out, len(candidates), max_experts, len(types), stage is not None)
        )
        weights, told = None, dict[str, object]()
        if apart:
            records, held_records = ([Record(path) for path in paths[name]] for name in ("apart", "held"))
            weights, told["saliency"] = fit_saliency(model, records, held_records, seed, steps)
            candidates = equipped(candidates, weights)
        seen = _examine(model, candidates, weights, (paths["fit"], paths["held"]), (situations, held), steps)
        calibration = Fit(model, candidates, seed, steps, told).run(*seen, situations, held, types, max_experts, stage)
    about = {
        "pikvpress": version("pikvpress"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": date.today().isoformat(),
        "contexts": len(situations),
        "saliency_contexts": apart * len(situations),
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
        saliency=weights if SALIENCY in calibration.experts else None,
        about=about,
    )
    save_gates(path, gates)
    shutil.rmtree(work)
    return Calibration(gates, path, calibration.findings)


def _collect(
    model: PreTrainedModel,
    situations: Sequence[Situation],
    held: Sequence[Situation],
    apart: int,
    work: Path,
    minutes: float,
    contexts: int | None,
    steps: Steps,
) -> dict[str, list[Path]]:
    """Measure situations into files, those that are there already excepted; as many as time allows.

    Returns the files of situations to fit routers on, of those behind them that are kept apart for the saliency expert,
    `apart` times as many, and of held-out ones.
    """
    scaling = [layer.scaling for layer in models.attention_layers(model)]

    def measured(name: str, number: int, situation: Situation) -> Path:
        path = work / f"{name}-{number:03d}.safetensors"
        if not path.exists():
            began = time.perf_counter()
            tensors = collecting.collect(model, situation, number)
            about = collecting.described(situation.kind, scaling, time.perf_counter() - began)
            collecting.save(path, tensors, **about)
        return path

    first = [measured("fit", number, situations[number]) for number in range(2)]
    seconds = min(Record(path).seconds for path in first)  # the first one also warms up
    count = contexts or int(min(MOST, max(FEWEST, COLLECTING * 60 * minutes / seconds)))
    chosen = {"fit": range(count), "apart": range(count, count * (1 + apart)), "held": range(_held(count))}
    total, paths = sum(map(len, chosen.values())), dict[str, list[Path]]()
    for use, numbers in chosen.items():
        name, made = ("held", held) if use == "held" else ("fit", situations)
        paths[use] = []
        for number in numbers:
            steps.collected(sum(map(len, paths.values())), total)
            paths[use].append(measured(name, number, made[number]))
    return paths


def _examine(
    model: PreTrainedModel,
    experts: Sequence[Expert],
    weights: torch.Tensor | None,
    readings: tuple[Sequence[Path], Sequence[Path]],
    situations: tuple[Sequence[Situation], Sequence[Situation]],
    steps: Steps,
) -> tuple[list[Files], list[Files]]:
    """Let experts look at every measured situation, into files beside it: what they see is theirs and the weights'."""
    digest = "" if weights is None else hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:12]

    def beside(path: Path, situation: Situation) -> Files:
        seen = path.with_name(f"{path.stem}-seen{digest}.safetensors")
        if not seen.exists():
            collecting.save(seen, collecting.look(model, situation, experts))
        steps("examining")
        return path, seen

    fit, held = (
        [beside(path, situation) for path, situation in zip(paths, made, strict=True)]
        for paths, made in zip(readings, situations, strict=True)
    )
    return fit, held


def _held(count: int) -> int:
    """Return how many contexts decide what is kept, for so many to fit on: 10, two of each kind, or fewer for few."""
    return max(min(10, 2 + count // 2), count // 4)


def _digest(
    fingerprint: dict[str, str], experts: Sequence[str], fit: Sequence[Situation], held: Sequence[Situation], seed: int
) -> str:
    """Return what must be equal for measurements of an interrupted calibration to be used again."""
    contexts = [[s.context, s.futures] for s in (*fit[:FEWEST], *held[:2])]
    description = json.dumps([fingerprint, list(experts), contexts, seed, feature_names.VERSION, version("pikvpress")])
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
        ROUTERS[name]
