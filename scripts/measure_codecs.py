"""Measure the codec curves of gates anew, and choose queries to refit values, so that old gates know new codecs.

    python scripts/measure_codecs.py GATES OUTPUT

The contexts are those that the gates were fitted and checked on, made again from the texts that ship; routers, experts,
saliency and token curves stay as they are. Measurements are kept beside OUTPUT until it is written.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pikvpress import models
from pikvpress.calibration.data.situations import make_situations
from pikvpress.calibration.data.texts import shipped_texts, split
from pikvpress.calibration.fit.queries import choose_queries
from pikvpress.calibration.measure.codec_curves import codec_curves
from pikvpress.calibration.measure.measurements import Measurements
from pikvpress.calibration.recipe import Recipe
from pikvpress.calibration.steps import Steps
from pikvpress.default_model import load_model
from pikvpress.experts import equipped, make_experts
from pikvpress.gates import Gates, load_gates, save_gates
from pikvpress.routers import RouterSettings
from pikvpress.routing.make_router import make_router


def with_codec_curves(gates: Gates, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, work: Path) -> Gates:
    """Return gates with codec curves for the pairs of today's recipe, and with queries.

    Raises
    ------
    ValueError
        If the gates are another model's, or were fitted on texts of somebody's own.
    """
    about, steps = gates.about, Steps(None)
    if about.get("texts") != "shipped":
        raise ValueError(
            "these gates were not fitted on the shipped texts, whose contexts are made again here: calibrate"
        )
    gates.check_model(models.fingerprint(models.attention_layers(model)[0]))
    recipe = Recipe(
        contexts=about["contexts"], held_out=about["held_out_contexts"], length=about["length"], seed=about["seed"]
    )
    fit_texts, held_texts = split(shipped_texts(), recipe.held_out_documents)
    fit = make_situations(tokenizer, fit_texts, about["contexts"], recipe, recipe.seed)
    held = make_situations(tokenizer, held_texts, about["held_out_contexts"], recipe, recipe.seed + 1)
    experts = equipped(make_experts(list(gates.experts), None), gates.saliency)
    measurements = Measurements(work, model, recipe)
    paths = measurements.collect(fit, held, 0, steps)
    records = measurements.examine([*paths["fit"], *paths["held"]], [*fit, *held], experts, gates.saliency, steps)
    settings = RouterSettings(**{"top_k": min(RouterSettings.top_k, len(experts))} | about.get("settings", {}))
    router = make_router("pikv", experts, models.attention_layers(model)[0], settings)
    router.load_state_dict(dict(gates.routers["pikv+fitted"]))
    curves = codec_curves(router, records, recipe, steps)
    measured = dict(about) | {"codecs_measured": date.today().isoformat()}
    queries = choose_queries(model, records[: len(fit)], recipe)
    return replace(gates, codec_curves=curves, codecs=recipe.codec_pairs, queries=queries, about=measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gates", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    work = options.output.with_name(f".{options.output.stem}-codecs")
    work.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_model()
    save_gates(options.output, with_codec_curves(load_gates(options.gates), model, tokenizer, work))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
