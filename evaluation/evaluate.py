"""A complete study, from loading the model to the last file."""

from __future__ import annotations

import sys

import torch
import typer

from evaluation import layout
from evaluation.journal import Journal
from evaluation.processes import this_process
from evaluation.runner import run
from evaluation.study import Study
from evaluation.units import make_units
from pikvpress import models
from pikvpress.default_model import load_model


def evaluate(study: Study) -> None:
    """Run what is missing in a study's folder, and write its files.

    With torchrun or ``accelerate launch``, every process runs its share of the contexts. The process that finds all
    shares complete writes the files, so no process waits for another.

    Raises
    ------
    ValueError, TypeError, OSError
        For errors in the study, its data or its folder; finished samples are kept.
    """
    place = this_process()
    if study.output.exists() and not study.output.is_dir():
        raise ValueError(f"--output {study.output} is a file: pass a folder")
    settings = {} if study.dtype == "auto" else {"dtype": getattr(torch, study.dtype)}
    model, tokenizer = load_model(study.model, **settings)
    models.check_supported(model)
    model.to(torch.device(study.device or place.device()))  # type: ignore[arg-type]
    units = make_units(study, tokenizer, getattr(model.config, "max_position_embeddings", None))
    described = layout.merge_into(study.output, layout.describe(study, model, units))
    study.output.mkdir(parents=True, exist_ok=True)
    if place.rank == 0:
        layout.write_study(study.output, described)
    with Journal(study.output, place.rank) as journal:
        run(study, model, tokenizer, units, journal, place)
        unfinished = layout.write_results(study, units, journal, described["model"])
    if unfinished and place.world == 1:
        raise ValueError(f"{study.output} still lacks {unfinished} pairs of press and ratio: run the command again")
    if place.rank == 0 or not unfinished:
        where = f"python -m evaluation report {study.output}"
        typer.echo(f"results are in {study.output}; create a report with `{where}`", file=sys.stderr)
