"""Oracles run only where the future is known, and read it once per sample."""

from __future__ import annotations

import pytest
import torch

from evaluation.compressors import Oracle, oracle
from evaluation.oracle import foresee
from evaluation.presses import PRESSES, parse_press
from evaluation.rows import Row
from evaluation.study import make_study
from evaluation.units import Sample


def sample(name, future):
    return Sample(name, Row("text", "", "", "", 1, "task"), (), tuple(future[:5]), tuple(future[5:]), 0)


def test_they_look_ahead_once_for_a_sample(source, monkeypatch):
    looked = []

    def counted(model, context, future, experts, ratios, seed):
        looked.append((future, experts, seed))
        return foresee(model, context, future, experts, ratios, seed)

    monkeypatch.setattr(oracle, "foresee", counted)
    ids = torch.randint(100, 40000, (2, 30), generator=torch.Generator().manual_seed(5)).tolist()
    for number, future in enumerate(ids):
        for name in ("oracle_choice", "oracle_blend"):
            spec = parse_press(name)
            for ratio in source.ratios:
                found = spec.strategy.compress(spec, ratio, source, sample(f"s-{number}", future))
                assert found.lengths == (int(300 * (1 - ratio)),) * 2
    assert [future for future, _, _ in looked] == ids and looked[0][2] != looked[1][2]


def test_they_run_where_the_future_is_known():
    assert all(isinstance(PRESSES[name].strategy, Oracle) for name in ("oracle_choice", "oracle_blend"))
    assert [PRESSES[name].make().most for name in ("oracle_choice", "oracle_blend")] == [1, 3]
    settings = {"presses": ["oracle_blend"], "ratios": [0.5], "lengths": [300], "output": "unused"}
    assert make_study(settings | {"benchmarks": ["fidelity"]}).names == ("oracle_blend",)
    with pytest.raises(ValueError, match="oracle_blend needs the future text"):
        make_study(settings | {"benchmarks": ["ruler"]})
