"""Run the cases on two placed devices in a process of their own, since torch keeps what it is told about devices.

`python -m tests.devices.process FOLDER` prints what went wrong, by case, as JSON.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

from transformers.utils import logging

from tests.devices.cases import CASES, SpreadRun, compare, on_cpu
from tests.devices.placed import KIND, placed_devices
from tests.parallel.cases import Run, load


def wrong(folder: Path) -> dict[str, str]:
    """Return how results on two devices differ from those on one, or the error that they end in."""
    found, model = {}, folder / "model"
    for name, case in CASES.items():
        expected = on_cpu(case(Run(load(model, None), folder)))
        try:
            with placed_devices():
                compare(on_cpu(case(SpreadRun(load(model, None), folder, (f"{KIND}:0", f"{KIND}:1")))), expected)
        except Exception as error:  # of any kind: the test shows all that is wrong at once
            where = traceback.extract_tb(error.__traceback__)[-2]
            found[name] = f"{type(error).__name__}: {str(error)[:300]} ({where.filename}:{where.lineno}, {where.line})"
    return found


if __name__ == "__main__":
    logging.disable_progress_bar()
    print(json.dumps(wrong(Path(sys.argv[1]))))
