"""Every part of the package imports without kvpress, or says in one sentence that it needs it."""

from __future__ import annotations

import json

from tests.without_kvpress import run

IMPORT_ALL = """
import json, pkgutil, importlib
import pikvpress

found = {}
for one in pkgutil.walk_packages(pikvpress.__path__, "pikvpress.", onerror=lambda name: None):
    if one.name.rpartition(".")[2] in ("triton", "compiled", "__main__"):
        continue
    try:
        importlib.import_module(one.name)
    except ImportError as error:
        found[one.name] = str(error)
print(json.dumps(found))
"""
NEED_IT = {
    "adaptation",
    "calibration",
    "demo",
    "experts",
    "image_presses",
    "layerwise",
    "needs_kvpress",
    "presses",
    "refit",
    "routing",
}


def test_only_presses_and_what_serves_them_need_kvpress():
    missing = json.loads(run(IMPORT_ALL).splitlines()[-1])
    parts = {name.split(".")[1] for name in missing if name != "pikvpress.store.pipeline"}
    assert parts == NEED_IT and "pikvpress.store.pipeline" in missing
    assert all("needs kvpress, which is not installed" in told for told in missing.values())
