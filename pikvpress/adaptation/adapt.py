"""Adaptation: train an adapter on compressed caches, check its gain on held-out text, and write it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from kvpress import BasePress
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pikvpress import models
from pikvpress.adaptation.adapter import adapter_on, save_adapter
from pikvpress.adaptation.gains import Gains, measure
from pikvpress.adaptation.losses import AdaptationLosses
from pikvpress.adaptation.recipe import AdaptationRecipe
from pikvpress.calibration import Recipe
from pikvpress.calibration.data.situations import Situation, make_situations
from pikvpress.calibration.data.texts import shipped_texts, split
from pikvpress.calibration.fit.loop import Pace, descend
from pikvpress.calibration.measure.in_one_place import check_in_one_place
from pikvpress.calibration.steps import Report
from pikvpress.presses import PiKVPress

RATIOS = (0.9375, 0.96875)  # of PiKVPress, if no presses are given: 1/16 and 1/32 of the bytes are left
SLOWING = 0.9  # share of the learning rate that is removed by the end


@dataclass(frozen=True)
class Adaptation:
    """The result of `adapt`.

    Parameters
    ----------
    folder : Path or None
        Where the adapter is; None if it gained nothing on held-out text and was not written.
    gains : Gains
        What it gains on held-out contexts that decided nothing.
    contexts : int
        Number of contexts that it was trained on.
    """

    folder: Path | None
    gains: Gains
    contexts: int


def adapt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output: str | Path,
    texts: Sequence[str] | None = None,
    *,
    presses: Sequence[BasePress] | None = None,
    progress: Report | None = None,
    recipe: AdaptationRecipe | None = None,
    **choices: Any,
) -> Adaptation:
    """Train an adapter that brings predictions from a compressed cache closer to those from the full one.

    The adapter is one of peft's, LoRA on the query and output projections of attention. Load it with
    ``peft.PeftModel.from_pretrained(model, output)`` and use the model with the presses that it was trained for.

    Parameters
    ----------
    model : PreTrainedModel
        A model in eval mode; restored at the end.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    output : str or Path
        Folder for the adapter, which must not exist yet, or be empty.
    texts : sequence of str, optional
        Documents similar to those that the model will read. By default those that calibration ships.
    presses : sequence of BasePress, optional
        What compresses contexts. By default `PiKVPress` that leaves 1/16, and 1/32, of the bytes.
    progress : callable, optional
        Called with the current stage, the number of completed steps and the total number of steps.
    recipe : AdaptationRecipe, optional
        Every number of an adaptation.
    **choices
        Fields of the recipe, such as `minutes`, `rank` and `objective`; they override it.

    Returns
    -------
    Adaptation
        Where the adapter is, and its gains on held-out contexts.

    Raises
    ------
    ValueError
        If the model is not supported, a number is out of range, the texts are too short, or the folder has files.
    TypeError
        If the recipe has no such field.
    """
    _check(model)
    folder = _checked(Path(output))
    recipe = replace(recipe or AdaptationRecipe(), **choices)
    chosen = [PiKVPress(ratio) for ratio in RATIOS] if presses is None else list(presses)
    if not chosen:
        raise ValueError("name at least one press, or leave presses out for PiKVPress at 1/16 and 1/32 of the bytes")
    return _carried_out(model, _situations(tokenizer, texts, recipe), folder, chosen, recipe, progress)


def _carried_out(
    model: PreTrainedModel,
    situations: tuple[list[Situation], list[Situation], list[Situation]],
    folder: Path,
    presses: Sequence[BasePress],
    recipe: AdaptationRecipe,
    progress: Report | None,
) -> Adaptation:
    """Train the adapter, decide whether it is worth keeping, and measure its gains."""
    fit, choosing, reported = situations
    with torch.random.fork_rng(devices=[]), adapter_on(model, recipe) as adapted:
        count = _trained(adapted, fit, presses, recipe, progress)
        kept = _mean(measure(adapted, choosing, presses, _counter(progress, "choosing", len(choosing)))) < 1
        gains = measure(adapted, reported, presses, _counter(progress, "checking on held-out text", len(reported)))
        if kept:
            save_adapter(adapted, folder)
    return Adaptation(folder if kept else None, gains, count)


def _trained(
    model: PeftModel,
    situations: Sequence[Situation],
    presses: Sequence[BasePress],
    recipe: AdaptationRecipe,
    progress: Report | None,
) -> int:
    """Train the adapter, and return on how many contexts."""
    losses = AdaptationLosses(model, presses, recipe, torch.Generator().manual_seed(recipe.seed))
    count = min(len(situations), recipe.contexts_for(_seconds(losses, situations[0])))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = create_loraplus_optimizer(
        model, torch.optim.Adam, lr=recipe.learning_rate, loraplus_lr_ratio=recipe.rate_ratio
    )
    pace = Pace(1, recipe.learning_rate, recipe.averaged, recipe.batch, SLOWING)
    step = _counter(progress, "training", count)
    descend(parameters, losses, situations[:count], pace, recipe.seed, step, optimizer)
    return count


def _seconds(losses: AdaptationLosses, situation: Situation) -> float:
    """Return the time that one situation takes; gradients are cleared before training begins."""
    began = time.perf_counter()
    for loss in losses(situation, True, random.Random(0)):
        loss.backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - began


def _situations(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str] | None, recipe: AdaptationRecipe
) -> tuple[list[Situation], list[Situation], list[Situation]]:
    """Return situations to train on, to decide on, and to report; of different documents."""
    fit, held = split(shipped_texts() if texts is None else texts, recipe.held_out_documents)
    choosing, reported = split(held, 2)
    lengths, seed = Recipe(length=recipe.length), recipe.seed
    made = partial(make_situations, tokenizer, recipe=lengths)
    return (
        made(fit, recipe.contexts or recipe.most_contexts, seed=seed),
        made(choosing, recipe.choosing, seed=seed + 1),
        made(reported, recipe.held_out, seed=seed + 2),
    )


def _mean(gains: Gains) -> float:
    return sum(gains.shares) / len(gains.shares)


def _counter(progress: Report | None, what: str, total: int) -> Callable[[], None]:
    """Return what counts the steps of a stage."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(what, done, total)

    return step


def _check(model: PreTrainedModel) -> None:
    """Raise a ``ValueError`` if no adapter can be trained for a model."""
    if models.unwrapped(model) is not model:
        raise ValueError("this model has an adapter already: merge it first, model.merge_and_unload()")
    models.check_supported(model)
    check_in_one_place(model, "train the adapter", "it then serves")


def _checked(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"output={str(folder)!r} is taken: name a new folder, or an empty one")
    if not folder.resolve().parent.is_dir():
        raise ValueError(f"the folder of output={str(folder)!r} does not exist: create it, or write elsewhere")
    return folder
