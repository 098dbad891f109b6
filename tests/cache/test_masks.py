"""What masks hide, and how they are adapted to a layer's length."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import masks


def test_masks_that_are_no_tensors_are_left_to_their_own_attention():
    """Such as those of flex attention."""
    mask = object()
    assert masks.fitted(mask, 5) is mask
    with pytest.raises(ValueError, match="of flex attention cannot be used with a PiKVCache"):
        masks.hidden(mask, 3, 5, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_a_mask_is_fitted_to_the_latest_entries(dtype):
    seen = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 1]], dtype=torch.bool)[None, None]
    mask = seen if dtype == torch.bool else torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
    longer, shorter = masks.fitted(mask, 6), masks.fitted(mask, 3)
    assert torch.equal(longer[..., 2:], mask) and not masks.hidden(longer, 2, 6, mask.device)[..., :2].any()
    assert torch.equal(shorter, mask[..., 1:])
    assert masks.fitted(mask, 4) is mask and masks.fitted(None, 4) is None


def test_what_a_query_must_not_see():
    device = torch.device("cpu")
    assert masks.hidden(None, 2, 3, device)[0, 0].tolist() == [[False, False, True], [False, False, False]]
    assert not masks.hidden(None, 1, 3, device).any()
    flat = torch.tensor([[0, 1, 1, 1, 0]])  # the form that flash attention uses
    assert masks.hidden(flat, 2, 3, device)[0, 0].tolist() == [[False, False, True], [False, False, True]]
    dense = torch.tensor([[True, False, True, True]])[None, None]
    assert masks.hidden(dense, 1, 3, device)[0, 0].tolist() == [[True, False, False]]
