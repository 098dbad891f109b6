"""The base class of schedulers, and finding one by name."""

from __future__ import annotations

import copy

import pytest
import torch

from pikvpress.cache.scheduler import SCHEDULERS, Candidates, Scheduler, known
from pikvpress.schedulers import H2OScheduler


def test_schedulers_by_name():
    assert isinstance(known("h2o"), H2OScheduler)
    made = H2OScheduler()
    assert known(made) is made and copy.deepcopy(made) is made
    with pytest.raises(ValueError, match="unknown scheduler 'streaming': did you mean streaming_llm"):
        known("streaming")
    with pytest.raises(TypeError, match="a scheduler is a name or an instance of Scheduler, got 3"):
        known(3)


def test_of_equal_scores_the_latest_stay():
    positions = torch.tensor([[[0, 1, 2, 3], [5, 6, -1, -1]]])
    candidates = Candidates(positions, {}, 2, 10, 0, quotas=[2, 3])
    kept = Scheduler().select(torch.zeros(1, 2, 4).masked_fill(positions < 0, -torch.inf), candidates)
    assert kept.tolist() == [[[False, False, True, True], [True, True, False, False]]]


def test_every_scheduler_names_itself_and_cites_its_source():
    for name, kind in SCHEDULERS.items():
        assert kind.name == name
        assert "arxiv.org" in kind.__doc__ or name in ("saliency", "lru")
