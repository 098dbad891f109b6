"""What experts and routers learn about a context."""

from __future__ import annotations

import pytest
import torch

from pikvpress.calibration.measure.examine import examined, look, prefill_seen
from pikvpress.experts import make_experts
from pikvpress.refit import references

NAMES = ["keydiff", "compactor"]


def test_files_hold_what_was_examined(llama):
    context, experts = list(range(1, 91)), make_experts(NAMES, None)
    cache, found = examined(llama, context, experts, (0.5, 0.75))
    seen = look(llama, context, experts, (0.5, 0.75))
    assert cache.get_seq_length() == 90 and sorted(found) == [0, 1]
    assert set(seen) == {f"{index}/{name}" for index in (0, 1) for name in ("ranks", "features", "probes")}
    probes = {}
    prefill_seen(llama, context, lambda layer: probes.update({layer.index: references(layer, None)[0]}))
    for index, by_ratio in found.items():
        for ratio, one in enumerate(by_ratio):
            torch.testing.assert_close(seen[f"{index}/ranks"][ratio] / (2 * 89), one.ranked[0], atol=3e-3, rtol=0)
            assert torch.equal(seen[f"{index}/features"][ratio], one.features[0])
        assert torch.equal(seen[f"{index}/probes"], probes[index].half())


def test_a_context_that_is_too_short_is_refused(llama):
    with pytest.raises(ValueError, match="contexts of 12 tokens are too short for compactor: use longer contexts"):
        look(llama, list(range(1, 13)), make_experts(NAMES, None), (0.5,))
    assert not any(module._forward_hooks for module in llama.modules())
