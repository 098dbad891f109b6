"""A press that needs a package is refused before anything runs, with the command that installs it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from evaluation.compressors import with_package
from evaluation.compressors.with_package import WithPackage
from evaluation.presses import PRESSES
from evaluation.study import make_study

SETTINGS = {"benchmarks": ["fidelity"], "lengths": [300], "ratios": [0.9], "output": "out"}


def test_a_study_is_refused_unless_the_package_is_installed(monkeypatch):
    installed = []

    def version(package: str) -> str:
        if package not in installed:
            raise PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(with_package, "version", version)
    needing = {
        name: entry.strategy.package for name, entry in PRESSES.items() if isinstance(entry.strategy, WithPackage)
    }
    assert set(needing.values()) == {"hqq", "nexusquant-kv", "turboquant-kv"}
    for name, package in needing.items():
        with pytest.raises(ValueError, match=f"{name} needs the package {package}: run `pip install {package}`, or"):
            make_study(SETTINGS | {"presses": [name]})
    installed += needing.values()
    assert make_study(SETTINGS | {"presses": list(needing)}).names == tuple(needing)
