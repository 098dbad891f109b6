"""The streamed press gives the scores of kvpress's."""

from __future__ import annotations

import pytest
import torch
from kvpress import LagKVPress

from pikvpress.experts import (
    StreamedLagKVPress,
)
from tests.conftest import make_tiny
from tests.experts.test_layer_view import call_of


@pytest.mark.parametrize("settings", [{"lag_size": 32}, {"lag_size": 32, "n_sink": 7, "cross_scoring": True}, {}])
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_lag_kv_is_kvpress_s(architecture, settings, ids):
    module, hidden, *rest = call_of(make_tiny(architecture), ids)
    with torch.no_grad():
        theirs = LagKVPress(0.5, **settings).score(module, hidden, *rest)
        torch.testing.assert_close(StreamedLagKVPress(0.5, **settings).score(module, hidden, *rest), theirs)
