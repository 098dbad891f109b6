"""Entries in few bits are chosen by whole pages, others one by one."""

from __future__ import annotations

import torch

from pikvpress.cache.choosing import chosen
from pikvpress.cache.scheduler import Candidates, Scheduler
from pikvpress.schedulers import LRUScheduler, QuestScheduler

PAGE = 64


class ByValue(Scheduler):
    """Scores are given."""

    name = "by value"

    def scores(self, candidates):
        return candidates.statistics["value"]


def candidates(values, *quotas):
    positions = torch.arange(values.shape[-1]).expand(values.shape)
    return Candidates(positions, {"value": values, "last": values}, 0, values.shape[-1], 0, quotas=quotas)


def test_a_packed_page_has_its_mean_score():
    values = torch.cat(
        [torch.full((1, 1, PAGE), 2.0), torch.full((1, 1, PAGE), 1.0), torch.arange(40.0)[None, None]], -1
    )
    values[0, 0, PAGE] = 100  # one good entry does not save the page: its mean is 2.55, that of the first one 2
    kept = chosen(ByValue(), candidates(values, PAGE + 40), packed=[2 * PAGE])[0, 0]
    assert not kept[:PAGE].any() and kept[PAGE : 2 * PAGE].all() and kept[2 * PAGE + 3 :].all()


def test_a_page_that_fits_only_in_part_goes():
    values = torch.ones(1, 1, 2 * PAGE)
    kept = chosen(ByValue(), candidates(values, 2 * PAGE - 1), packed=[2 * PAGE])[0, 0]
    assert kept.sum() == PAGE and kept[PAGE:].all()


def test_one_by_one():
    values = torch.randn(2, 3, 100, generator=torch.Generator().manual_seed(0))
    kept = chosen(ByValue(), candidates(values, 5, 6, 7), packed=None)
    assert kept.sum(dim=-1).tolist() == [[5, 6, 7]] * 2
    assert values[kept].min() >= values[~kept].min()


def test_whole_pages_and_everything():
    values = torch.arange(3.0 * PAGE).flip(0)[None, None]
    kept = chosen(LRUScheduler(), candidates(values, 2 * PAGE + 10), packed=None)[0, 0]
    assert kept[: 2 * PAGE].all() and not kept[2 * PAGE :].any()
    assert chosen(QuestScheduler(), candidates(values, 1), packed=None).all()
