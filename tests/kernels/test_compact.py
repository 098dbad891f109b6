import torch

from pikvpress.kernels.compact import gather_rows, select


def test_the_best_rows_stay_in_position_order():
    scores = torch.tensor([[[0.1, 0.9, 0.5, 0.7]]])
    positions = select(scores, 2)
    assert positions.tolist() == [[[1, 3]]]
    states = torch.arange(8.0).view(1, 1, 4, 2)
    assert gather_rows(states, positions).tolist() == [[[[2, 3], [6, 7]]]]


def test_each_head_keeps_its_own_rows():
    scores = torch.tensor([[[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]])
    assert select(scores, 1).tolist() == [[[0], [2]]]
