"""Predictions from a cache whose keys are weighted."""

from __future__ import annotations

import torch

from pikvpress import models
from pikvpress.calibration.measure.student import predict
from tests.calibration.measure.cases import full_cache
from tests.calibration.measure.conftest import CONTEXT, FUTURE


def test_a_student_that_keeps_everything_is_the_teacher(case):
    model, context, future = case
    cache = full_cache(model, context)
    with torch.no_grad():
        whole = model(input_ids=torch.tensor([context + future])).logits[0, -FUTURE:].log_softmax(dim=-1)
        everything = {index: torch.ones(2, CONTEXT) for index in range(2)}
        short, found = predict(model, cache, everything, [future[:3], future])
        torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(short, whole[:3], atol=1e-4, rtol=1e-4)
        half = {0: torch.ones(2, CONTEXT) * (torch.arange(CONTEXT) < 45)}
        assert (predict(model, cache, half, [future])[0] - whole).abs().max() > 1e-3
    assert model.config._attn_implementation == "sdpa"
    assert not hasattr(models.attention_layers(model)[0], "kept_share")
