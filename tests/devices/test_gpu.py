"""Layers on the CPU and on a GPU in turn: `make test-gpu`."""

from __future__ import annotations

import pytest
import torch

from tests.devices.cases import CASES, SpreadRun, compare, on_cpu
from tests.parallel.cases import Run, load, write

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with models and gates."""
    made = tmp_path_factory.mktemp("models")
    write(made)
    return made


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_model_on_cpu_and_gpu_compresses_as_on_the_cpu(case, folder):
    """Sums are added up in another order, so that few entries with nearly equal scores may be exchanged."""
    expected = on_cpu(case(Run(load(folder / "model", None), folder)))
    found = on_cpu(case(SpreadRun(load(folder / "model", None), folder, ("cpu", "cuda:0"))))
    compare(found, expected, atol=1e-2, agreeing=0.98)
