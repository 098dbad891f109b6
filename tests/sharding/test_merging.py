"""Merged parts are the attention over everything."""

from __future__ import annotations

import pytest
import torch

from pikvpress.sharding import merged


@pytest.mark.parametrize("cuts", [(30,), (10, 20), (0, 30), (1, 0, 29, 0), (15, 15)])
def test_parts_give_the_attention_over_everything(cuts):
    torch.manual_seed(0)
    query, keys, values = (torch.randn(2, 3, n, 8, dtype=torch.float64) for n in (4, 30, 30))
    logits = 20 * query @ keys.mT  # large, so that weights outside the exponent would overflow
    expected = logits.softmax(dim=-1) @ values
    outputs, log_sums = [], []
    for part, of_part in zip(logits.split(cuts, dim=-1), values.split(cuts, dim=2), strict=True):
        outputs.append(part.softmax(dim=-1) @ of_part)
        log_sums.append(part.logsumexp(dim=-1))
        if part.shape[-1] == 0:
            outputs[-1] = torch.full_like(expected, torch.nan)  # as a kernel may leave it
    found = merged(torch.stack(outputs), torch.stack(log_sums))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_what_is_not_a_number_stays_visible():
    outputs = torch.tensor([[[torch.nan]], [[1.0]]])
    assert merged(outputs, torch.zeros(2, 1)).isnan().all()
    assert merged(torch.ones(2, 1, 1), torch.tensor([[torch.nan], [0.0]])).isnan().all()
