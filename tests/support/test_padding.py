import pytest
import torch

from pikvpress.support.padding import padding

SEEN = torch.tensor([[[[0, 1, 0], [0, 1, 1]]]], dtype=torch.bool)


@pytest.mark.parametrize("mask", [SEEN, torch.zeros(SEEN.shape).masked_fill(~SEEN, -torch.inf)], ids=["bool", "added"])
def test_padding_is_what_not_even_the_last_query_sees(mask):
    assert padding(mask, 3).tolist() == [[True, False, False]]
    assert padding(mask, 4) is None


def test_flat_masks_say_it_directly():
    assert padding(torch.tensor([[0, 1, 1], [1, 1, 0]]), 3).tolist() == [[True, False, False], [False, False, True]]


def test_other_masks_say_nothing():
    assert padding(None, 3) is None and padding(object(), 3) is None
