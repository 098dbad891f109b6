"""Where gates are searched for, and in what order."""

from __future__ import annotations

import pytest

from pikvpress import models
from pikvpress.gates import file_name, find_gates, gates_of, save_gates
from pikvpress.gates.find import user_folder
from tests.conftest import make_tiny
from tests.helpers import uneven_gates


def test_the_user_s_folder_is_named_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PIKVPRESS_GATES", "~/gates")
    assert user_folder().name == "gates" and "~" not in str(user_folder())
    monkeypatch.delenv("PIKVPRESS_GATES")
    assert str(user_folder()).endswith(".cache/pikvpress/gates")


def test_the_user_s_own_gates_come_first_and_must_be_of_the_model(tmp_path, monkeypatch):
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path))
    model = make_tiny()
    first = models.attention_layers(model)[0]
    fingerprint = models.fingerprint(first)
    assert find_gates(fingerprint) is None is gates_of(first)
    save_gates(tmp_path / file_name(fingerprint), uneven_gates(model))
    assert find_gates(fingerprint).experts == gates_of(first).experts == ["keydiff", "knorm"]
    (tmp_path / file_name(fingerprint)).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a complete gates file"):
        find_gates(fingerprint)
