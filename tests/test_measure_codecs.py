"""Measuring codecs that are newer than the gates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pikvpress.calibration import Recipe
from scripts.measure_codecs import with_codec_curves
from tests.calibration.tiny import Tokenizer
from tests.conftest import make_tiny
from tests.helpers import uneven_gates


def test_only_codec_curves_and_queries_change(tmp_path):
    model = make_tiny()
    about = {"contexts": 2, "held_out_contexts": 1, "length": 256, "seed": 0, "texts": "shipped"}
    gates = uneven_gates(model)
    router = {"pikv+fitted": gates.routers["pikv+fitted"]}
    curves = gates.curves.expand(3, -1, -1, -1)
    before = replace(gates, ratios=Recipe.ratios, curves=curves, routers=router, about=about)
    after = with_codec_curves(before, model, Tokenizer(), tmp_path)
    assert after.codecs == Recipe.codec_pairs and after.curves is before.curves and after.routers is before.routers
    assert after.codec_curves.shape == (3, 2, 2, len(Recipe.codec_pairs), len(Recipe.keep_shares))
    assert after.queries.shape == (2, 4, Recipe.bank, 16) and after.queries.flatten(1).any(dim=1).all()
    whole = after.codec_curves[..., 0].sum(dim=(0, 1, 2))  # all tokens kept
    exact, coarsest = Recipe.codec_pairs.index(("exact", "exact")), Recipe.codec_pairs.index(("rot1", "rot1"))
    assert whole[exact] == whole.min() and whole[coarsest] == whole.max()
    assert "codecs_measured" in after.about and torch.isfinite(after.codec_curves).all()


def test_gates_of_other_texts_or_models_are_refused(tmp_path):
    about = {"contexts": 2, "held_out_contexts": 1, "length": 256, "seed": 0, "texts": "given"}
    gates = replace(uneven_gates(make_tiny()), about=about)
    with pytest.raises(ValueError, match="not fitted on the shipped texts"):
        with_codec_curves(gates, make_tiny(), Tokenizer(), tmp_path)
    with pytest.raises(ValueError, match="fitted for another model"):
        with_codec_curves(replace(gates, about=about | {"texts": "shipped"}), make_tiny(seed=1), Tokenizer(), tmp_path)
    assert not list(tmp_path.iterdir())
