"""Attention weights written to a reused buffer."""

from __future__ import annotations

import torch

from pikvpress.kernels.attend import attend


def test_it_is_softmax_in_the_buffer_and_hides_what_it_is_told():
    torch.manual_seed(0)
    rows, keys = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    hidden = torch.tensor([[True, True], [False, True], [False, False]])
    for dtype in (torch.float32, torch.float16):
        buffer = torch.full((2, 3, 5), torch.nan)
        found = attend(rows.to(dtype), keys.to(dtype), 0.3, buffer, hidden)
        logits = rows @ keys.mT * 0.3
        logits[..., 3:] = logits[..., 3:].masked_fill(hidden, -torch.inf)
        assert found is buffer
        torch.testing.assert_close(found, logits.softmax(dim=-1), atol=2e-3 if dtype == torch.float16 else 1e-6, rtol=0)
