"""Measurements on disk."""

from __future__ import annotations

import pytest
import torch

from pikvpress import models
from pikvpress.calibration.data.situations import Situation
from pikvpress.calibration.measure.collect import collect
from pikvpress.calibration.measure.examine import look
from pikvpress.calibration.measure.record import Record, described, save
from pikvpress.experts import make_experts
from tests.calibration.measure.cases import full_cache
from tests.calibration.measure.conftest import CONTEXT, FUTURE
from tests.calibration.tiny import RECIPE


def test_what_is_collected_is_read_again(tmp_path, llama):
    ids = torch.randint(1, 500, (CONTEXT + FUTURE,), generator=torch.Generator().manual_seed(1)).tolist()
    situation = Situation("facts", tuple(ids[:CONTEXT]), (tuple(ids[CONTEXT:]), tuple(ids[CONTEXT : CONTEXT + 5])))
    experts = make_experts(["keydiff", "compactor"], None)
    scaling = [layer.scaling for layer in models.attention_layers(llama)]
    save(tmp_path / "one", collect(llama, situation, 2, 0), **described("facts", scaling, 1.5))
    save(tmp_path / "seen", look(llama, situation.context, experts, RECIPE.ratios))
    assert Record(tmp_path / "one").layer(1).seen.ranks.shape == (0, 0, 0, CONTEXT)
    record = Record(tmp_path / "one", tmp_path / "seen")
    assert (record.kind, record.seconds, record.layers) == ("facts", 1.5, [0, 1])
    layer = record.layer(1)
    assert torch.equal(record.of([1]).layer(1).seen.ranks, layer.seen.ranks[:, :, 1:])
    assert layer.seen.ranks.shape == (len(RECIPE.ratios), 2, 2, CONTEXT)
    assert layer.reading.attention.shape == (2, 2 * (FUTURE + 5), CONTEXT)
    assert record.num_keys(1) == CONTEXT
    (queries, gradients), (others, _) = record.queries(1)
    assert queries.shape == (4, FUTURE, 16) and gradients.shape == (2, 4, FUTURE, 16) and others.shape == (4, 5, 16)
    cache = full_cache(llama, situation.context)
    torch.testing.assert_close(layer.reading.values, cache.layers[1].values[0], atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(layer.keys, cache.layers[1].keys[0], atol=1e-2, rtol=1e-2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "seen"]
    for name in ("seen", "one"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
        with pytest.raises(ValueError, match=f"{name} is not a complete measurement"):
            Record(tmp_path / "one", tmp_path / "seen")
    with pytest.raises(ValueError, match="too short for compactor"):
        look(llama, ids[:12], experts, RECIPE.ratios)
