"""The streamed press gives the scores of kvpress's."""

from __future__ import annotations

import kvpress
import pytest
import torch

from pikvpress import experts
from tests.experts.scoring import check_needs, check_scores, scores_of
from tests.experts.test_layer_view import call_of


@pytest.mark.parametrize(
    "settings",
    [{}, {"chunk_size": 32, "sketch_dimension": 8, "blending": 2.0}, {"sink_size_start": 0, "sink_size_end": 0}],
)
@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen3"])
def test_scores_are_kvpress_s(settings, architecture, ids):
    check_scores("CompactorPress", settings, architecture, ids)


def test_the_expert_is_ours_and_kvpress_s_press_has_its_needs():
    check_needs("compactor", "CompactorPress")


def test_settings_reach_the_attention_of_compactor(llama, ids):
    call = call_of(llama, ids)
    press = experts.StreamedCompactorPress()
    press.compression_ratio, press.chunk_size = 0.5, 16
    theirs = kvpress.CompactorPress(0.5, chunk_size=16)
    torch.testing.assert_close(scores_of(press, *call), scores_of(theirs, *call), atol=1e-5, rtol=1e-5)
