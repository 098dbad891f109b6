"""Helpers of the calibration tests: a tokenizer, texts, and situations measured with a tiny model."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch

from pikvpress import models
from pikvpress.calibration.data.situations import Situation
from pikvpress.calibration.measure.collect import collect
from pikvpress.calibration.measure.examine import look
from pikvpress.calibration.measure.record import Record, described, save
from pikvpress.calibration.recipe import Recipe
from pikvpress.routers import ROUTERS, Router, RouterSettings
from pikvpress.routers.feature_names import feature_names

EXPERTS = ["saliency", "keydiff", "knorm", "probe_attention"]
SETTINGS = {"contexts": 4, "length": 256, "experts": EXPERTS, "max_experts": 3, "routers": ["pikv", "eplb"]}
SETTINGS |= {"worth_of_time": 0}  # times vary, but gates are compared exactly
SETTINGS |= {"recipe": Recipe(saliency_contexts=2)}
TEXTS = ["".join(f"Line {i} of text {n} tells of things. " for i in range(40)) for n in range(8)]
NAMES = ["keydiff", "knorm", "streaming_llm", "probe_attention"]  # experts that every four-expert router knows
RECIPE = Recipe()


class Tokenizer:
    """A tokenizer with characters as tokens, within the tiny models' vocabulary."""

    bos_token = "^"
    chat_template = None

    def encode(self, text, **kwargs):
        return [ord(character) % 500 for character in text]

    def decode(self, ids, **kwargs):
        return "".join(map(chr, ids))


def make_situations(count: int, context: int, *futures: int) -> list[Situation]:
    """Return situations of random tokens, with futures of these lengths."""
    generator = torch.Generator().manual_seed(2)
    made = []
    for _ in range(count):
        ids = torch.randint(1, 500, (context + sum(futures),), generator=generator).tolist()
        cuts = [context + sum(futures[:i]) for i in range(len(futures) + 1)]
        made.append(
            Situation("facts", tuple(ids[:context]), tuple(tuple(ids[a:b]) for a, b in itertools.pairwise(cuts)))
        )
    return made


def measured(model, situations, folder: Path, experts=None) -> list[Record]:
    """Return measured situations, examined by experts if any are given."""
    scaling = [layer.scaling for layer in models.attention_layers(model)]
    records = []
    for number, situation in enumerate(situations):
        path, seen = folder / f"{number}", None
        tensors = collect(model, situation, RECIPE.gradient_samples, number)
        save(path, tensors, **described(situation.kind, scaling, 1.0))
        if experts is not None:
            seen = folder / f"{number}-seen"
            save(seen, look(model, situation.context, experts, RECIPE.ratios))
        records.append(Record(path, seen))
    return records


def make_router(name: str = "pikv", **settings) -> Router:
    """Return an unfitted router of `NAMES` for a model of two layers and two KV heads."""
    return ROUTERS[name]([1.0] * 4, feature_names(NAMES), 2, 2, RouterSettings(**{"top_k": 4} | settings))


def quiet(step: str) -> None:
    """Ignore a step."""
