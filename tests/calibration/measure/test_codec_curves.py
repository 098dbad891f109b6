"""The cost of fewer bits."""

from __future__ import annotations

from dataclasses import replace

import torch

from pikvpress.calibration.fit.budgets import error_curves
from pikvpress.calibration.measure.codec_curves import codec_curves
from pikvpress.experts import make_experts
from tests.calibration.tiny import NAMES, RECIPE, make_router, make_situations, measured, quiet
from tests.conftest import make_tiny


def test_exact_codecs_cost_what_tokens_cost_and_others_more(tmp_path):
    recipe = replace(RECIPE, rows=10_000, codec_pairs=(("exact", "exact"), ("int8", "int8"), ("int2", "int2")))
    records = measured(make_tiny("llama", seed=5), make_situations(2, 110, 10, 10), tmp_path, make_experts(NAMES, None))
    told = []
    curves = codec_curves(make_router(), records, recipe, told.append)
    assert curves.shape == (3, 2, 2, 3, len(recipe.keep_shares)) and told == ["measuring codecs"] * 2
    torch.testing.assert_close(curves[..., 0, :], error_curves(make_router(), records, recipe, quiet))
    whole = curves[..., 0].sum(dim=(0, 1, 2))  # all tokens are kept
    assert whole[0] < whole[1] < whole[2]
