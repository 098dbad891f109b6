"""Balance by a loss during fitting."""

from __future__ import annotations

import torch

from tests.routers.making import ALL, features, make


def test_fitting_sees_dropout_and_gradients():
    router = make("topk_balanced", top_k=2, dropout=0.5)
    router.train()
    weights, loss = router(0, features(), ALL)
    again, _ = router(0, features(), ALL)
    assert not torch.equal(weights, again)
    (weights[..., 0].sum() + loss).backward()
    assert router.static.grad.abs().sum() > 0
    assert router.evidence.grad.abs().sum() > 0


def test_uneven_use_costs_what_the_coefficient_says():
    uneven = features() * 0
    uneven[..., 0] = -9.0
    losses = [
        make("topk_balanced", balance_coefficient=c, aux_loss_weight=0.0)(0, uneven, ALL)[1] for c in (0.0, 1.0, 2.0)
    ]
    assert losses[0] == 0 < losses[1]
    torch.testing.assert_close(losses[2], 2 * losses[1])
