"""A pytest plugin that runs a session as one of the passes, and records each test."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

# kvpress first: pytest puts the checkout's root, with a package of that name, before the installed one.
import kvpress
import numpy as np
import pytest
import torch

from scripts.kvpress_suite import standins
from scripts.kvpress_suite.failures import failure_of
from scripts.kvpress_suite.known import equivalent
from scripts.kvpress_suite.passes import PASSES, Pass
from scripts.kvpress_suite.records import Record, append
from scripts.kvpress_suite.watch import Watch


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the command's options."""
    parser.addoption("--kvpress-pass", choices=list(PASSES))
    parser.addoption("--kvpress-checkout", type=Path)
    parser.addoption("--kvpress-records", type=Path)


def pytest_configure(config: pytest.Config) -> None:
    """Set the pass up, before a module of the suite is imported."""
    run = Session(PASSES[config.getoption("kvpress_pass")], config.getoption("kvpress_records"))
    run.set_up(config.getoption("kvpress_checkout"))
    config.pluginmanager.register(run)


def pytest_make_parametrize_id(config: pytest.Config, val: Any, argname: str) -> str | None:
    """Name a press of the suite's list by its class and distinguishing settings, instead of a number."""
    if not (isinstance(val, dict) and "cls" in val):
        return None
    settings = [value for value in val["kwargs"][0].values() if isinstance(value, str)]
    return "-".join([val["cls"].__name__, *settings])


class Session:
    """One pass over the suite."""

    def __init__(self, which: Pass, records: Path) -> None:
        self.which, self.records, self.watch = which, records, Watch()
        self._caches: list[Any] = []

    def set_up(self, checkout: Path) -> None:
        """Apply the replacements of the pass, and extend the suite's presses."""
        if checkout in Path(kvpress.__file__).resolve().parents:
            raise pytest.UsageError("kvpress was imported from the checkout: install it together with pikvpress")
        logging.getLogger("httpx").setLevel(logging.ERROR)
        standins.install(self.watch.on)
        if self.which.cache:
            from scripts.kvpress_suite import caches

            caches.replace()
            self._caches = caches.StandInCache.made
        sys.path.insert(0, str(checkout))
        from tests.default_presses import default_presses

        if self.which.presses:
            from scripts.kvpress_suite.our_presses import our_presses

            default_presses.extend(our_presses())

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin every test in the same state, in every pass."""
        _seed()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Watch the models of a test."""
        self._caches.clear()
        self.watch.begin()
        _seed()
        try:
            yield
        finally:
            self.watch.end()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> Generator[None, Any, Any]:
        """Record a test after its call, or after a failed setup."""
        report = yield
        if report.when == "call" or (report.when == "setup" and not report.passed):
            append(self._record(item, call, report), self.records)
        return report

    def _record(self, item: pytest.Item, call: pytest.CallInfo, report: Any) -> Record:
        error = None if call.excinfo is None else call.excinfo.value
        record = Record(item.nodeid, report.outcome, None if error is None else failure_of(error))
        if report.when == "call":
            record.forwards, record.unread = self.watch.forwards, self.watch.unread
            if self.which.cache and isinstance(error, AssertionError):
                record.equivalent = equivalent(item.nodeid, error, self._caches)
        return record

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Make sure that the plain pass did not import pikvpress."""
        if self.which.name == "plain" and "pikvpress" in sys.modules:
            print("pikvpress was imported in the plain pass")
            session.exitstatus = pytest.ExitCode.USAGE_ERROR


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the suite draws from it
    torch.manual_seed(0)
