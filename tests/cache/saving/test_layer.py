"""A layer in a file is read when its entries are needed, and is then like any other."""

from __future__ import annotations

import copy

import pytest
import torch

from pikvpress.cache.codecs import EXACT
from pikvpress.cache.saving.contents import LayerContents
from pikvpress.cache.saving.layer import SavedLayer
from tests.cache.saving.cases import LENGTH, filled


@pytest.fixture
def original(llama):
    return filled(llama, "ragged", 3).layers[0]


@pytest.fixture
def checks():
    return []


@pytest.fixture
def layer(original, checks):
    verify = lambda: checks.append(1)  # noqa: E731
    return SavedLayer((EXACT, EXACT), 0, LayerContents.of(original), verify, torch.device("cpu"))


def test_measuring_reads_nothing(layer, original, checks):
    assert layer.is_initialized and (layer.dtype, layer.device) == (original.dtype, original.device)
    assert layer.get_seq_length() == LENGTH + 3 and layer.nbytes == original.nbytes and layer.depth == 2
    assert not checks


def test_it_is_read_once(layer, original, checks):
    assert layer.entries.tail is not None and checks == [1]
    layer.read()
    assert layer.counts() == original.counts() and layer.codec_names() == original.codec_names()
    assert layer.nbytes == original.nbytes and layer.get_seq_length() == LENGTH + 3
    assert checks == [1]


def test_entries_that_are_set_are_kept(layer, checks):
    layer.crop(LENGTH)
    assert layer.get_seq_length() == LENGTH and checks == [1]
    layer.reset()
    assert layer.get_seq_length() == 0 and not layer.is_initialized and layer.nbytes == 0


def test_resetting_reads_nothing(layer, checks):
    layer.reset()
    assert layer.get_seq_length() == 0 and not checks


def test_copies_are_read(layer, original):
    assert copy.deepcopy(layer).counts() == original.counts()


def test_a_layer_that_cannot_be_verified_has_no_entries(original):
    def refuse():
        raise ValueError("altered")

    layer = SavedLayer((EXACT, EXACT), 0, LayerContents.of(original), refuse, torch.device("cpu"))
    for _ in range(2):
        with pytest.raises(ValueError, match="altered"):
            layer.settle()
    with pytest.raises(AttributeError, match="'SavedLayer' object has no attribute 'entrees'"):
        layer.entrees  # noqa: B018


def test_it_moves_when_it_is_read(layer):
    layer.to("meta")
    assert layer.device.type == "meta" and layer.get_seq_length() == LENGTH + 3
    layer._unread[0].entries.compressed.context[0].keys.channels  # noqa: B018
    layer.read()
    assert layer.entries.tail.keys.is_meta
    layer.to("meta")
    assert layer.entries.tail.values.is_meta
