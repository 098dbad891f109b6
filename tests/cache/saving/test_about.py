"""A file says what is in it without being loaded."""

from __future__ import annotations

import pytest
import torch
from kvpress import KnormPress

from pikvpress import PiKVCache, PiKVPress
from pikvpress.cache import saved_cache
from pikvpress.cache.saving.about import digest_of_ids, plan_piece
from pikvpress.cache.saving.file import write_sections
from pikvpress.cache.saving.settings import settings_of
from pikvpress.model_digest import ModelDigest
from tests.cache.saving.cases import LENGTH, filled, ids

DIGEST = {"architecture": "Llama", "config": "1", "weights": "2"}
CONTENTS = {"layers": [], "model": DIGEST, "input_ids": None, "press": None, "plan": 8}


def test_everything_that_was_given_is_there(llama, tmp_path):
    press, cache = PiKVPress(0.8, gates=None), PiKVCache()
    with torch.no_grad(), press(llama):
        llama.model(ids(), past_key_values=cache)
    cache.save(tmp_path / "file", input_ids=ids(), press=press)
    about = saved_cache(str(tmp_path / "file"))
    assert about.plan == press.plan and about.press == settings_of(press)
    assert about.model == ModelDigest.of(llama) and about.input_ids == digest_of_ids(ids())
    assert (about.version, about.length) == (2, LENGTH)


def test_what_was_not_given_is_none(llama, tmp_path):
    cache = filled(llama, "int8/int4", 90)
    cache.save(tmp_path / "file", press=KnormPress(0.5))
    about = saved_cache(tmp_path / "file")
    assert about.plan is None and about.input_ids is None and about.press["press"] == "KnormPress"
    assert about.length == cache.get_seq_length() == LENGTH + 90
    assert about.schedule is None
    scheduled = filled(llama, "h2o")
    scheduled.save(tmp_path / "file")
    told = saved_cache(tmp_path / "file").schedule
    assert told == str(scheduled.current_schedule) == "h2o: at most 150 entries a head"
    PiKVCache().save(tmp_path / "file", llama)
    assert saved_cache(tmp_path / "file").length == 0


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no saved cache at"):
        saved_cache(tmp_path / "none")
    write_sections(tmp_path / "plan", {"plan": [torch.ones(8, dtype=torch.uint8)]}, CONTENTS)
    with pytest.raises(ValueError, match="plan cannot be loaded: Error -3 while decompressing data"):
        saved_cache(tmp_path / "plan")
    write_sections(tmp_path / "nothing", {}, {})
    with pytest.raises(ValueError, match="nothing cannot be loaded: 'layers'"):
        saved_cache(tmp_path / "nothing")


def test_digests_of_ids_depend_on_numbers_and_shape_only():
    digest = digest_of_ids(ids())
    assert digest == digest_of_ids(ids().int()) == digest_of_ids(ids().T.contiguous().T)
    assert len({digest, digest_of_ids(ids()[:, 1:]), digest_of_ids(ids().view(2, -1)), digest_of_ids(ids() + 1)}) == 4
    with pytest.raises(TypeError, match="must be a tensor of token ids"):
        digest_of_ids([[1, 2]])
    with pytest.raises(TypeError, match="must be a tensor of token ids"):
        digest_of_ids(ids().float())
    with pytest.raises(ValueError, match=r"must have the shape \(batch, tokens\), got \(200,\)"):
        digest_of_ids(ids()[0])


def test_plans_take_few_bytes(llama):
    press = PiKVPress(0.8, gates=None)
    with torch.no_grad(), press(llama):
        llama.model(ids(), past_key_values=PiKVCache())
    assert len(plan_piece(press.plan)) < 500
