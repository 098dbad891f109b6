"""Futures read with the full cache, as the model reads them."""

from __future__ import annotations

import torch

from pikvpress import models
from pikvpress.calibration.measure.teacher import read_future
from tests.calibration.measure.cases import full_cache, readings
from tests.calibration.measure.conftest import CONTEXT, FUTURE


def test_futures_attend_as_the_model_does(case):
    model, context, future = case
    cache = full_cache(model, context)
    seen = {}

    def keep(index):
        return lambda module, args: seen.update({index: args[0][0]})

    attentions = models.attention_layers(model)
    handles = [layer.o_proj.register_forward_pre_hook(keep(i)) for i, layer in enumerate(attentions)]
    with torch.no_grad():
        model(input_ids=torch.tensor([context + future]))
    for handle in handles:
        handle.remove()
    futures = [read_future(model, cache, future, 1, torch.Generator())]
    for index, reading in enumerate(readings(model, cache, futures)):
        by_head = seen[index][-FUTURE:].unflatten(-1, (4, -1)).transpose(0, 1).unflatten(0, (2, 2)).flatten(1, 2)
        torch.testing.assert_close(reading.output, by_head, atol=1e-4, rtol=1e-3)
    assert cache.get_seq_length() == CONTEXT
    assert not any(p.grad is not None for p in model.parameters())
