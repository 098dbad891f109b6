"""What needs only torch and Triton, where kvpress or transformers is not installed or does not fit."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from types import ModuleType

from benchmarks.failures import reason
from benchmarks.kernels.machine import ROOT

# Packages whose `__init__` imports what may be missing, although modules inside do not need it.
PACKAGES = ("pikvpress", "pikvpress.cache")


@cache
def missing() -> str | None:
    """Return why pikvpress cannot be imported; None if it can.

    After a reason, the package consists of its modules alone: `pikvpress.kernels` and the codecs of `pikvpress.cache`
    can be imported, and the package's own names cannot.
    """
    try:
        importlib.import_module("pikvpress")
    except Exception as error:  # other releases of the packages may fail in any way
        for name in [name for name in sys.modules if name.split(".")[0] == "pikvpress"]:
            del sys.modules[name]
        for name in PACKAGES:
            stand_in = ModuleType(name)
            stand_in.__path__ = [str(ROOT.joinpath(*name.split(".")))]
            sys.modules[name] = stand_in
        return reason(error)
    return None
