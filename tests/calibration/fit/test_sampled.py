"""Texts continued by a teacher, a student or both."""

from __future__ import annotations

import pytest
import torch

from pikvpress.calibration.fit.sampled import corrected, text_of


def test_a_proposal_stands_if_the_teacher_ranks_it_high_enough():
    teacher = torch.tensor([0.6, 0.3, 0.1, 1e-30]).log()
    generator = torch.Generator().manual_seed(0)
    assert corrected(1, teacher, 2, generator) == 1
    replaced = [corrected(3, teacher, 2, generator) for _ in range(600)]
    assert replaced.count(3) == 0
    assert replaced.count(0) / 600 == pytest.approx(0.6, abs=0.07)
    assert replaced.count(2) / 600 == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("given", [1, 1, 1, 1, 1]),
        ("teacher", [1, 1, 1, 2, 2]),
        ("student", [1, 1, 1, 3, 3]),
        ("corrected", [1, 1, 1, 2, 2]),
    ],
)
def test_the_second_half_is_whose_it_should_be(source, expected):
    def surely(token):
        return lambda text: torch.nn.functional.one_hot(torch.tensor([token] * len(text)), 5).float().log()

    generator = torch.Generator().manual_seed(0)
    assert text_of([1] * 5, source, (surely(2), surely(3)), 1, generator) == expected
