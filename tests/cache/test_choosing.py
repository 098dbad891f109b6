"""Entries in few bits are chosen by whole pages, others one by one."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache.choosing import chosen, in_pages
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


def test_a_head_with_less_than_a_page_keeps_one_if_there_is_one_for_all():
    values = torch.arange(4.0 * PAGE).flip(0).expand(1, 2, -1)
    kept = chosen(ByValue(), candidates(values, 40, 3 * PAGE), packed=[4 * PAGE] * 2)[0]
    assert kept.sum(dim=-1).tolist() == [PAGE, 2 * PAGE] and kept[0, :PAGE].all() and kept[1, : 2 * PAGE].all()


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ((70, 70), (70, 70)),  # equal ones stay
        ((10, 100), (10, 100)),  # no page for each
        ((10, 118), (PAGE, PAGE)),
        ((0, 5 * PAGE), (PAGE, 4 * PAGE)),
        ((3 * PAGE + 60, 2 * PAGE + 10, 5), (3 * PAGE, 2 * PAGE, PAGE)),
    ],
)
def test_unequal_quotas_become_whole_pages_and_no_more_in_total(quotas, expected):
    assert tuple(in_pages(quotas)) == expected
    assert sum(in_pages(quotas)) <= sum(quotas)
