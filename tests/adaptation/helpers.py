"""A tiny model with an adapter, and how it is trained in seconds."""

from __future__ import annotations

import torch

from pikvpress.adaptation import AdaptationRecipe
from tests.calibration.tiny import make_situations

RECIPE = AdaptationRecipe(contexts=4, length=256, choosing=2, held_out=2, learning_rate=0.01)
(SITUATION,) = make_situations(1, 200, 9, 12)


def fill(model, scale=0.25):
    """Give the adapter of a model random weights, so that it changes predictions."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
