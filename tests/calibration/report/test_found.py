"""The result of a calibration."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from pikvpress.calibration.report.found import Calibration


def test_it_cannot_be_changed():
    found = Calibration(None, Path("gates.safetensors"), None)
    assert found.path.name == "gates.safetensors"
    with pytest.raises(FrozenInstanceError):
        found.path = Path("other")
