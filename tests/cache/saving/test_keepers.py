"""What a scheduler has recorded about a layer is saved with it."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache.saving.codecs import CodecTable, restored
from pikvpress.cache.saving.file import MappedFile, Pieces, write_sections
from pikvpress.cache.saving.keepers import check_keeper, described_keeper, restored_keeper
from tests.cache.saving.cases import SCHEDULERS, filled


def through_a_file(keeper, folder):
    table = CodecTable([])
    described, pieces = described_keeper(keeper, table)
    write_sections(folder / "file", {"records": pieces}, {"keeper": described, "codecs": table.rows})
    file = MappedFile(folder / "file")
    codecs, places = [restored(row, []) for row in file.contents["codecs"]], Pieces(file, "records")
    found = restored_keeper(file.contents["keeper"], places, codecs, 2, keeper.schedule, 1)
    places.finish()
    return found


def alike(one, other):
    """Compare two objects attribute by attribute."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if type(one).__module__.startswith("pikvpress.cache.") and not type(one).__name__.endswith("Codec"):
        return type(one) is type(other) and (one is other or alike(vars(one), vars(other)))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


@pytest.mark.parametrize("kind", [*SCHEDULERS, "h2o, int8/int4", "saliency by bytes", "bytes, then h2o"])
def test_keepers_come_back(kind, llama, tmp_path):
    layer = filled(llama, kind, 90).layers[1]
    found = through_a_file(layer.keeper, tmp_path)
    assert alike(vars(found), vars(layer.keeper) | {"_whole": None})  # counted again
    assert found.nbytes == layer.keeper.nbytes > 0
    check_keeper(found, layer.entries)


def test_a_keeper_that_has_seen_nothing(llama, tmp_path):
    cache = filled(llama, "h2o", 90)
    cache.reset()
    found = through_a_file(cache.layers[1].keeper, tmp_path)
    assert vars(found)["_records"] is None
    check_keeper(found, cache.layers[1].entries)


def test_records_of_other_entries_are_refused(llama, tmp_path):
    layer, others = filled(llama, "h2o", 90).layers[1], filled(llama, "h2o").layers[1]
    found = through_a_file(layer.keeper, tmp_path)
    with pytest.raises(ValueError, match="the records of a scheduler are about"):
        check_keeper(found, filled(llama, "dense").layers[1].entries)
    found.records.ledger.counts[0, 0] -= 1
    with pytest.raises(ValueError, match="not those that are held"):
        check_keeper(found, layer.entries)
    check_keeper(others.keeper, others.entries)
