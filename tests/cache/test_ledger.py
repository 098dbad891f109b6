"""A ledger follows its entries: heads of different length, rows in another order, crops."""

from __future__ import annotations

import torch

from pikvpress.cache.ledger import Ledger

BATCH, HEADS, LEAVING, RECENT = 2, 2, 64, 70


def ledger():
    """Return a ledger of recent entries whose statistics tell row, head and position."""
    numbers = 1000.0 * torch.arange(BATCH * HEADS).view(BATCH, HEADS, 1) + torch.arange(RECENT)
    counts = torch.zeros(BATCH, HEADS, dtype=torch.int64)
    nothing = torch.empty(0, dtype=torch.int32)
    return Ledger(counts, nothing, {"mass": numbers}, {"worth": torch.empty(0)}, {"worth": -numbers[..., :LEAVING]})


def some(seed=0):
    """Return a ledger of which the heads have stored different numbers of entries, and their positions."""
    candidates = ledger().candidates(0, LEAVING, RECENT, 0)
    mask = torch.rand(BATCH, HEADS, LEAVING, generator=torch.Generator().manual_seed(seed)) < 0.5
    held = [part.nonzero()[:, 0].tolist() for part in mask.flatten(0, 1)]
    return ledger().kept(candidates, mask, max(map(len, held))), held


def check(found, held, order=range(BATCH * HEADS)):
    assert found.counts.flatten().tolist() == [len(part) for part in held]
    candidates = found.candidates(LEAVING, 0, RECENT, 0)
    for part, positions, place in zip(range(len(held)), held, order, strict=True):
        count = len(positions)
        assert candidates.positions.flatten(0, 1)[part].tolist() == positions + [-1] * (found.stored - count)
        numbers = [1000.0 * place + position for position in positions]
        assert candidates.statistics["mass"].flatten(0, 1)[part, :count].tolist() == numbers
        assert candidates.statistics["worth"].flatten(0, 1)[part, :count].tolist() == [-number for number in numbers]


def test_kept_entries_move_to_the_front():
    found, held = some()
    assert len(set(map(len, held))) > 1
    check(found, held)
    assert found.observed["mass"].shape[2] == found.stored + RECENT - LEAVING and found.measured == 0


def test_keeping_again():
    found, held = some()
    candidates = found.candidates(LEAVING, 0, RECENT, 0)
    mask = candidates.exist & (candidates.positions % 2 == 0)
    even = [[position for position in part if position % 2 == 0] for part in held]
    check(found.kept(candidates, mask, max(map(len, even))), even)


def test_rows_in_another_order():
    found, held = some()
    rows = torch.tensor([1, 0, 1])
    parts = [row * HEADS + head for row in rows.tolist() for head in range(HEADS)]
    check(found.rows(rows), [held[part] for part in parts], parts)


def test_what_was_not_measured_is_nan():
    candidates = ledger().candidates(0, RECENT, RECENT, 0)
    assert candidates.statistics["worth"][..., LEAVING:].isnan().all()
    assert not candidates.statistics["worth"][..., :LEAVING].isnan().any()


def test_shortened_and_appended():
    found, held = some()
    longer = found.appended(lambda name: torch.full((BATCH, HEADS, 3), 7.0))
    assert longer.observed["mass"].shape[2] == found.observed["mass"].shape[2] + 3
    check(longer.shortened(2), held)
    assert longer.shortened(2).observed["mass"].shape[2] == found.stored + 2
    assert ledger().shortened(10).measured == 10


def test_bytes_are_those_of_its_tensors():
    found, held = some()
    entries = sum(map(len, held))
    padded = BATCH * HEADS * (found.stored + RECENT - LEAVING) * 4
    assert found.nbytes == BATCH * HEADS * 8 + entries * 4 + entries * 4 + padded
    assert found.to("cpu").nbytes == found.nbytes
