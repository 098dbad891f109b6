"""The numbers of an adaptation."""

from __future__ import annotations

import pytest

from pikvpress.adaptation import AdaptationRecipe


def test_contexts_follow_from_the_time_that_one_takes():
    recipe = AdaptationRecipe(minutes=10, training=0.5)
    assert recipe.contexts_for(3.0) == 100
    assert recipe.contexts_for(10_000) == recipe.fewest_contexts
    assert recipe.contexts_for(0.001) == recipe.most_contexts
    assert AdaptationRecipe(contexts=7).contexts_for(3.0) == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "klx"}, "did you mean kl"),
        ({"rank": 0}, r"rank must be in \[1, 64\], got 0"),
        ({"rank": 65}, "got 65"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"minutes": float("nan")}, "minutes must be above 0"),
        ({"rate_ratio": 0.5}, "rate_ratio must be at least 1"),
        ({"training": 1.0}, "training must be in"),
        ({"contexts": 0}, "contexts must be at least 1, got 0"),
        ({"held_out": 0}, "held_out must be at least 1"),
        ({"held_out_documents": 1}, "held_out_documents must be at least 2"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        AdaptationRecipe(**changes)
