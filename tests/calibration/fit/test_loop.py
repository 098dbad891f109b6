"""The training loop: steps, batches, learning rate, the mean of the last steps, and validation on held-out contexts."""

from __future__ import annotations

import itertools

import pytest
import torch

from pikvpress.calibration.fit.loop import HeldOut, Pace, TailMean, descend
from tests.calibration.tiny import make_router


def test_the_mean_is_over_the_last_third_of_the_steps():
    parameter = torch.nn.Parameter(torch.zeros(1))
    mean = TailMean([parameter], 6, 3)
    for step in range(6):
        parameter.data.fill_(step)
        mean.add()
    mean.take()
    assert parameter.item() == 4.5


def visits(pace, examples=5, seed=0):
    """Return the items that a fit visits, and the value of its parameter at each visit."""
    parameter, seen, told = torch.nn.Parameter(torch.zeros(1)), [], []

    def losses(example, early, chance):
        seen.append((example, early, parameter.item()))
        yield parameter.sum()
        yield 2 * parameter.sum()

    descend([parameter], losses, range(examples), pace, seed, lambda: told.append(1))
    assert len(told) == len(seen)
    return seen, parameter.item()


def test_every_example_is_visited_once_an_epoch_in_an_order_of_the_seed():
    pace = Pace(epochs=5, learning_rate=0.1, averaged=3)
    seen, _ = visits(pace)
    orders = [tuple(example for example, _, _ in seen[5 * epoch : 5 * epoch + 5]) for epoch in range(5)]
    assert all(sorted(order) == [*range(5)] for order in orders) and len(set(orders)) > 1
    assert [early for _, early, _ in seen] == [True] * 10 + [False] * 15
    assert visits(pace)[0] == seen and visits(pace, seed=1)[0] != seen


def test_a_batch_makes_one_step_and_the_last_one_may_be_smaller():
    seen, _ = visits(Pace(epochs=1, learning_rate=0.1, averaged=1, batch=2))
    assert [place for _, _, place in seen] == pytest.approx([0, 0, -0.1, -0.1, -0.2], abs=1e-5)


def test_the_learning_rate_falls_by_a_share():
    seen, _ = visits(Pace(epochs=1, learning_rate=0.1, averaged=1, slowing=0.5), examples=4)
    places = [place for _, _, place in seen]
    steps = [first - second for first, second in itertools.pairwise(places)]
    assert steps == pytest.approx([0.1, 0.1 * (1 - 0.5 / 4), 0.1 * (1 - 0.5 / 2)], rel=1e-3)


def held_out(divergences, gains):
    """Return the router's first parameter after each stage, given their divergences, and which stages were kept."""
    router = make_router()
    found = iter(divergences)
    kept = HeldOut(router, lambda: torch.full((3,), next(found)), first="start")
    places = []
    for number, gain in enumerate(gains, 1):
        with torch.no_grad():
            router.static.fill_(number)
        kept.look(f"stage {number}", gain)
        places.append(router.static[0, 0, 0].item())
    return places, kept


def test_the_best_state_is_given_back():
    places, kept = held_out([1.0, 0.5, 0.6, 0.4], [0, 0, 0])
    assert places == [1, 1, 3] and kept.best == "stage 3"
    assert kept.figures("divergence")["divergence"]["stage 2"] == pytest.approx([0.6] * 3)
    assert held_out([1.0, 1.1], [0])[0] == [0] and held_out([1.0, 1.1], [0])[1].best == "start"


def test_a_stage_may_have_to_win_a_share():
    assert held_out([1.0, 0.985], [0.02])[1].best == "start"
    assert held_out([1.0, 0.975], [0.02])[1].best == "stage 1"
