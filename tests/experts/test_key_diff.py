"""The streamed press gives the scores of kvpress's."""

from __future__ import annotations

import pytest
import torch
from kvpress import KeyDiffPress

from pikvpress.experts import (
    StreamedKeyDiffPress,
)
from tests.conftest import make_tiny
from tests.experts.test_layer_view import call_of


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_key_diff_is_kvpress_s(architecture, ids):
    module, hidden, *rest = call_of(make_tiny(architecture), ids)
    with torch.no_grad():
        theirs = KeyDiffPress(0.5).score(module, hidden, *rest)
        torch.testing.assert_close(StreamedKeyDiffPress(0.5).score(module, hidden, *rest), theirs)
