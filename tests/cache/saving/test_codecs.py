"""Codecs go through JSON and come back equal, or are refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
import torch

from pikvpress.cache import CODECS, Bases, Codec, codec
from pikvpress.cache.saving.codecs import (
    CodecTable,
    bases_pieces,
    description,
    restored,
    restored_bases,
    restored_choice,
)
from pikvpress.cache.saving.file import MappedFile, Pieces, write_sections

NAMES = [*CODECS, "rank4", "rank16+int2"]
FACTORS = {"mean": (2, 2, 8), "directions": (2, 2, 3, 8), "spread": (2, 2, 3)}


def make_bases(seed=0):
    generator = torch.Generator().manual_seed(seed)
    keys, values = (
        {name: torch.randn(shape, generator=generator).half() for name, shape in FACTORS.items()} for _ in range(2)
    )
    return Bases({"model_type": "llama"}, keys, values, {"rank": 3, "shares": [0.5]})


@pytest.mark.parametrize("name", NAMES)
def test_codecs_come_back_by_name(name):
    for one in (codec(name), codec(name).following):
        row = json.loads(json.dumps(description(one)))
        assert restored(row, []) == one
    assert description(codec(name)) == name


def test_what_differs_from_the_codec_of_that_name_is_described():
    assert description(CODECS["rot4"].following) == ["rot4", {"block": 64, "lead": 0}]


@dataclass(frozen=True)
class Odd(Codec):
    """A codec of a user."""

    table: tuple[int, ...] = ()


def test_a_registered_codec_of_a_user_comes_back(monkeypatch):
    monkeypatch.setitem(CODECS, "odd", Odd("odd", table=(1,)))
    assert restored(description(CODECS["odd"]), []) is CODECS["odd"]
    with pytest.raises(ValueError, match="cannot be saved: its table is not the registered codec's"):
        description(replace(CODECS["odd"], table=(2,)))


@pytest.mark.parametrize("one", [Odd("odd"), Odd("int4", 4), make_bases().codecs(0, True)[0]], ids=lambda one: one.name)
def test_a_codec_that_would_not_be_found_again_is_refused(one):
    with pytest.raises(ValueError, match=f"'{one.name}' cannot be saved, because it cannot be found by its name: add"):
        description(one)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="unknown codec 'int5'"):
        restored("int5", [])


def test_a_table_numbers_codecs_once():
    table = CodecTable([CODECS["exact"], CODECS["int4"]])
    assert table.numbers([CODECS["int4"]] * 3) == 0
    assert table.numbers([CODECS["int4"], CODECS["rot2"]]) == [0, 1]
    assert table.rows == ["int4", "rot2"] and table.bases == []
    assert table.choice(CODECS["int8"]) == "int8"
    assert restored_choice("int8", []) is CODECS["int8"]


@pytest.mark.parametrize("shared", [True, False])
def test_bases_come_back_with_the_codecs_of_their_heads(tmp_path, shared):
    first = make_bases()
    choices = [first, first if shared else make_bases(1)]
    table = CodecTable(choices)
    assert len(table.bases) == (1 if shared else 2)
    codecs = [one for layer in range(2) for side, bases in enumerate(choices) for one in bases.codecs(layer, side == 0)]
    assert table.numbers(codecs) == list(range(8))

    described, pieces = zip(*map(bases_pieces, table.bases), strict=True)
    sections = {f"bases.{index}": one for index, one in enumerate(pieces)}
    write_sections(tmp_path / "file", sections, {"bases": described, "choices": [*map(table.choice, choices)]})
    file = MappedFile(tmp_path / "file")
    back = [restored_bases(one, Pieces(file, f"bases.{i}")) for i, one in enumerate(file.contents["bases"])]
    for before, after in zip(table.bases, back, strict=True):
        assert (before.model, before.about, before.nbytes) == (after.model, after.about, after.nbytes)
        for side in ("keys", "values"):
            expected, found = getattr(before, side), getattr(after, side)
            assert list(expected) == list(found)
            assert all(torch.equal(expected[name], found[name]) for name in expected)
    keys, values = (restored_choice(row, back) for row in file.contents["choices"])
    assert (keys is values) == shared
    for row, before in zip(table.rows, codecs, strict=True):
        after = restored(row, back)
        assert torch.equal(after.factors["directions"], before.factors["directions"])
    assert restored(table.rows[0], back) is keys.codecs(0, True)[0]  # the very object, as in the layers to come
