"""Models in one place, and others; tests/devices and tests/test_ranks.py calibrate models that are not."""

from __future__ import annotations

import pytest
import torch

from pikvpress.calibration.measure.in_one_place import check_in_one_place
from tests.conftest import make_tiny


def test_a_model_in_one_place_passes_and_an_offloaded_one_does_not():
    model = make_tiny("llama")
    check_in_one_place(model, "calibrate it", "its gates then serve")
    with torch.device("meta"):
        offloaded = type(model)(model.config)
    with pytest.raises(ValueError, match=r"offloaded, .*: train it on one device; it then serves wherever its layers"):
        check_in_one_place(offloaded, "train it", "it then serves")
