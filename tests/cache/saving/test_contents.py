"""The contents of a layer are described briefly and come back without being read."""

from __future__ import annotations

import json

import pytest
import torch

from pikvpress import PiKVCache
from pikvpress.cache.codecs import EXACT
from pikvpress.cache.saving.codecs import CodecTable, restored
from pikvpress.cache.saving.contents import LayerContents, restored_contents
from pikvpress.cache.saving.file import MappedFile, Pieces, write_sections
from tests.cache.saving.cases import filled


def through_a_file(layer, folder):
    table = CodecTable([EXACT])
    described, pieces = LayerContents.of(layer).described(table)
    write_sections(folder / "file", {"layer": pieces}, {"layer": described, "codecs": table.rows})
    file = MappedFile(folder / "file")
    codecs = [restored(row, []) for row in file.contents["codecs"]]
    return restored_contents(file.contents["layer"], Pieces(file, "layer"), codecs, None, 1)


@pytest.mark.parametrize("kind", ["dense", "ragged", "low rank", "cleared channels", "bytes per head"])
def test_contents_come_back(llama, tmp_path, kind):
    layer = filled(llama, kind, 90).layers[1]
    before, after = LayerContents.of(layer), through_a_file(layer, tmp_path)
    assert after.nbytes == before.nbytes == layer.nbytes
    following = before.attributes["_following"]
    as_tuples = following and tuple(map(tuple, following))
    assert after.attributes == before.attributes | {"_following": as_tuples}
    for side in ("keys", "values"):
        assert torch.equal(getattr(after.entries.tail, side), getattr(before.entries.tail, side))
    assert (after.entries.compressed.decoded is None) == (before.entries.compressed.decoded is None)
    stretches = zip(after.entries.compressed.stretches, before.entries.compressed.stretches, strict=True)
    for found, expected in stretches:
        assert found.length == expected.length and found.codecs == expected.codecs
        for one, other in ((found.keys, expected.keys), (found.values, expected.values)):
            assert one.counts == other.counts and torch.equal(one.buffer, other.buffer)
            assert (one.head_dim, one.dtype, one.is_keys) == (other.head_dim, other.dtype, other.is_keys)
            for live, wanted in zip(one.channels, other.channels, strict=True):
                assert (live is None and wanted is None) or torch.equal(live, wanted)


def test_heads_that_are_alike_are_described_once(llama):
    described, _ = LayerContents.of(filled(llama, "int8/int4").layers[0]).described(CodecTable([]))
    assert described["counts"] == [184, 16] and described["codecs"] == [[0, 1], [2, 2]]
    assert len(json.dumps(described)) < 400


def test_padding_is_stored_if_there_is_some(llama, tmp_path):
    mask = torch.ones(2, 200, dtype=torch.long)
    assert LayerContents.of(filled(llama, "dense", 0, mask).layers[0]).attributes["_padding"] is None
    mask[0, :5] = 0
    contents = through_a_file(filled(llama, "dense", 0, mask).layers[0], tmp_path)
    assert contents.attributes["_padding"].sum() == 5 and contents.nbytes == contents.entries.nbytes + 400


def test_moving_to_the_same_device_copies_nothing(llama):
    contents = LayerContents.of(filled(llama, "dense").layers[0])
    assert contents.to(torch.device("cpu")) is contents
    assert contents.to(torch.device("meta")).entries.tail.keys.is_meta


def test_channels_that_entries_do_not_have_are_refused(llama):
    contents = LayerContents.of(filled(llama, "cleared channels").layers[0])
    contents.check()
    contents.entries.compressed.context[0].keys.channels[1][-1] = 16
    with pytest.raises(ValueError, match=r"entries of 16 channels have no channels \[.*16\]"):
        contents.check()


def test_integers_are_refused(llama):
    layer = PiKVCache(), torch.zeros(1, 2, 3, 16, dtype=torch.int64)
    layer[0].update(layer[1], layer[1], 0)
    with pytest.raises(ValueError, match="keys and values in int64 cannot be saved: load the model in one of float32"):
        LayerContents.of(layer[0].layers[0]).described(CodecTable([]))
