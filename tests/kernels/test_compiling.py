"""Compilation, where numba is there, where it is not, and where nothing can be written."""

from __future__ import annotations

import importlib.util
import logging

import pytest

from pikvpress.kernels import compiling
from pikvpress.kernels.compiling import compiled, numba_is_installed

numba = pytest.importorskip("numba")

LOOPS = """
from pikvpress.kernels.compiling import compiled

@compiled("int64(int64)")
def doubled(number):
    return 2 * number
"""


def test_without_numba_one_line_says_what_is_missed(monkeypatch, caplog):
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    numba_is_installed.cache_clear()
    try:
        assert not numba_is_installed() and not numba_is_installed()
    finally:
        numba_is_installed.cache_clear()
    assert len(caplog.records) == 1 and "pip install 'pikvpress[cpu]'" in caplog.text


def imported(path):
    """Return a new module of a file, as another process would import it."""
    spec = importlib.util.spec_from_file_location("some_loops", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_compiled_code_is_kept_for_later_processes(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    path = tmp_path / "some_loops.py"
    path.write_text(LOOPS)
    compiling._say_that_it_takes_a_while.cache_clear()
    first = imported(path).doubled
    assert first(21) == 42 and not first.stats.cache_hits and "compiling" in caplog.text
    compiling._say_that_it_takes_a_while.cache_clear()
    caplog.clear()
    second = imported(path).doubled
    assert second(21) == 42 and second.stats.cache_hits and not caplog.text


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(monkeypatch, caplog):
    from numba.core.dispatcher import Dispatcher

    def refuse(self):
        raise RuntimeError("no locator available")

    monkeypatch.setattr(Dispatcher, "enable_caching", refuse)
    with caplog.at_level(logging.INFO, "pikvpress.kernels.compiling"):
        doubled = compiled("int64(int64)")(lambda number: 2 * number)
    assert doubled(21) == 42 and "compiled in every process" in caplog.text


def test_other_types_are_refused():
    doubled = compiled("float32(float32)")(lambda number: 2 * number)
    with pytest.raises(TypeError):
        doubled("4")
