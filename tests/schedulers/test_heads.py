"""Numbers for heads must be for the heads of the model."""

from __future__ import annotations

import pytest
import torch

from pikvpress import models
from pikvpress.schedulers.heads import check_heads


def test_shapes(llama):
    first = models.attention_layers(llama)[0]
    check_heads("shares", torch.ones(2, 2), first)
    check_heads("weights", torch.ones(2, 2, 38), first, (38,))
    with pytest.raises(
        ValueError, match=r"shares has shape \(2, 4\), but this model needs \(2, 2\): one for each layer"
    ):
        check_heads("shares", torch.ones(2, 4), first)
    with pytest.raises(ValueError, match=r"weights has shape \(2, 2\), but this model needs \(2, 2, 38\)"):
        check_heads("weights", torch.ones(2, 2), first, (38,))
