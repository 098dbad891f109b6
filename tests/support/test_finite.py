"""NaN and infinite values are found and named."""

from __future__ import annotations

import pytest
import torch

from pikvpress.support.finite import check_scores, refuse_not_finite, total

FINE = torch.ones(3)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_one_number_is_enough(number):
    broken = torch.tensor([1.0, number])
    assert total(FINE, FINE.half()).item() == 6 and not total(FINE, broken).isfinite()
    with pytest.raises(ValueError, match="the keys and values of layer 7 contain NaN or infinite"):
        refuse_not_finite(7, {"hidden states": FINE, "keys": broken, "values": broken})


def test_scores_are_blamed_only_where_what_they_are_made_of_is_finite():
    tensors = {"hidden states": FINE, "keys": FINE, "values": FINE}
    check_scores(1, {"a": torch.tensor([torch.inf])}, tensors)
    with pytest.raises(ValueError, match="the scores of b in layer 1 are NaN"):
        check_scores(1, {"a": FINE, "b": torch.tensor([torch.nan])}, tensors)
    with pytest.raises(ValueError, match="the hidden states of layer 1"):
        check_scores(1, {"b": FINE * torch.nan}, tensors | {"hidden states": FINE * torch.nan})
    with pytest.raises(ValueError, match="the keys of layer 1"):
        check_scores(1, {"a": FINE}, tensors | {"keys": FINE * torch.inf})
