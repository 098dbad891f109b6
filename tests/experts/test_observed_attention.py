"""ObservedAttention without needing eager attention."""

from __future__ import annotations

import pytest
import torch
from kvpress import ObservedAttentionPress

from pikvpress.experts import WindowedObservedAttentionPress
from tests.conftest import make_tiny
from tests.experts.test_layer_view import call_of


@pytest.mark.parametrize("window", [50, None])
@pytest.mark.parametrize("batch", [1, 2])
def test_windows_as_long_as_the_context_observe_what_eager_attention_shows(batch, window):
    ids = torch.randint(1, 128, (batch, 50), generator=torch.Generator().manual_seed(3))
    module, hidden, keys, values, attentions, kwargs = call_of(make_tiny(attn_implementation="eager"), ids)
    with torch.no_grad():
        ours = WindowedObservedAttentionPress(0.5, window_size=window).score(module, hidden, keys, values, None, kwargs)
    torch.testing.assert_close(
        ours, ObservedAttentionPress(0.5).score(module, hidden, keys, values, attentions, kwargs)
    )
