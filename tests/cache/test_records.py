"""Records: attention is assigned to the entries that it belongs to, and rotations to those that leave."""

from __future__ import annotations

import torch

from pikvpress.cache.entries import Entries
from pikvpress.cache.records import Records
from pikvpress.cache.schedule import schedule_for
from pikvpress.cache.tail import DenseTail
from pikvpress.schedulers import SaliencyScheduler

HEADS, SIZE = 2, 8


def entries(count):
    generator = torch.Generator().manual_seed(0)
    return Entries(DenseTail(*(torch.randn(1, HEADS, count, SIZE, generator=generator) for _ in range(2))))


def schedule(choice="h2o"):
    return schedule_for(choice, {"max_tokens": 500}, 16, None, None)


def test_attention_to_entries_of_a_press_is_left_out():
    records = Records(schedule(), 0, entries(70), fixed=[2, 1])
    candidates = records.ledger.candidates(0, 64, 70, 0)
    mask = torch.zeros(1, HEADS, 64, dtype=torch.bool)
    mask[0, :, :3] = True
    records.ledger = records.ledger.kept(candidates, mask, 3)
    left = Entries(entries(70).tail.between(64, 70))
    attention = torch.tensor([[[90.0, 91, 1, 2, 3, *[7] * 6], [90.0, 1, 2, 3, 0, *[7] * 6]]])
    records.observed(left, attention, tokens=1)
    assert records.ledger.observed["mass"].tolist() == [[[1, 2, 3, *[7] * 6]] * 2]
    records.observed(left, attention, tokens=1)
    assert records.ledger.observed["mass"].tolist() == [[[2, 4, 6, *[14] * 6]] * 2]
    assert records.nbytes == records.ledger.nbytes + HEADS * 8


def test_entries_are_measured_once_and_only_if_their_rotation_is_known():
    weights = torch.randn(1, HEADS, 2 * SIZE + 6, generator=torch.Generator().manual_seed(1))
    plan = schedule(SaliencyScheduler(weights=weights))
    records = Records(plan, 0, entries(60), fixed=[0, 0])
    records.measured(entries(60), 40)
    assert records.ledger.measured == 0  # no rotation is known
    cos, sin = torch.ones(1, 20, SIZE), torch.zeros(1, 20, SIZE)
    records.arrived(entries(80), 20, {"cos": cos, "sin": sin})
    records.measured(entries(80), 70)
    scores = records.ledger.recent_measures["saliency"]
    assert scores[..., :60].isnan().all() and not scores[..., 60:].isnan().any() and scores.shape[2] == 70
    assert records.ledger.totals[..., 2].tolist() == [[10, 10]]
    records.measured(entries(80), 70)
    assert records.ledger.recent_measures["saliency"] is scores and records.ledger.totals[..., 2].tolist() == [[10, 10]]


def test_a_layer_may_be_longer_than_the_first_one():
    """Rotations are known by index in the first layer, of which a press may have left fewer entries."""
    weights = torch.randn(1, HEADS, 2 * SIZE + 6, generator=torch.Generator().manual_seed(1)).expand(2, -1, -1)
    plan = schedule(SaliencyScheduler(weights=weights))
    plan.longer = {0: 0, 1: 40}
    turns = torch.rand(1, 30, SIZE, generator=torch.Generator().manual_seed(2))
    kept = [Entries(entries(100).tail.between(first, 70)) for first in (40, 0)]
    records = [Records(plan, layer, held, fixed=[0, 0]) for layer, held in enumerate(kept)]
    held = [Entries(entries(100).tail.between(first, 100)) for first in (40, 0)]
    for layer in (0, 1):
        records[layer].arrived(held[layer], 30, {"cos": turns.cos(), "sin": turns.sin()})
    records[0].measured(held[0], 50)
    records[1].measured(held[1], 90)  # the same entries, and 40 more that no rotation is known of
    first, second = (one.ledger.recent_measures["saliency"] for one in records)
    assert torch.equal(first[..., 30:], second[..., 70:]) and not first[..., 30:].isnan().any()
    assert first[..., :30].isnan().all() and second[..., :70].isnan().all()
