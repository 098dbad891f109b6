"""The attention that probe queries pay to each key."""

from __future__ import annotations

import torch

from pikvpress.kernels.probe_scores import probe_scores


def test_it_is_the_geometric_mean_of_mean_and_largest_attention():
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 6, 9, 16), torch.randn(2, 3, 40, 16)
    logits = queries.unflatten(1, (3, 2)) @ keys.unsqueeze(2).mT * 0.3
    paid = logits.softmax(dim=-1).flatten(2, 3)
    expected = (paid.mean(dim=2) * paid.amax(dim=2)).sqrt()
    torch.testing.assert_close(probe_scores(queries, keys, 0.3), expected, atol=1e-6, rtol=1e-5)
    half = probe_scores(queries.half(), keys.half(), 0.3)
    torch.testing.assert_close(half.float(), expected, atol=2e-3, rtol=2e-2)
