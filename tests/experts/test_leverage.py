"""Statistical leverage of keys, without copying them."""

from __future__ import annotations

import kvpress
import torch

from pikvpress.experts.leverage import StreamedLeverageScorePress
from tests.experts.test_layer_view import call_of


def test_scores_are_kvpress_s(llama, ids):
    call = call_of(llama, ids)
    scores = []
    for press in (kvpress.LeverageScorePress(0.5), StreamedLeverageScorePress(0.5)):
        torch.manual_seed(0)  # for the random sketch
        with torch.no_grad():
            scores.append(press.score(*call))
    torch.testing.assert_close(scores[1], scores[0], atol=1e-4, rtol=1e-4)
