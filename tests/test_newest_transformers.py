"""What needs no kvpress passes its tests with a newer transformers than kvpress allows."""

from __future__ import annotations

import re

import pytest

from scripts.newest_transformers.__main__ import PLUGIN, SELECTION
from scripts.newest_transformers.environment import WHEELS, install, run


def test_what_needs_no_kvpress_passes_its_tests(tmp_path):
    failure = install(tmp_path)
    if failure:
        pytest.skip(f"the newest transformers cannot be installed here: {failure.splitlines()[-1]}")
    wanted = re.search(r"^transformers==(\S+)", WHEELS.read_text(), flags=re.MULTILINE)[1]
    told = run(tmp_path, ["-c", "import transformers, pikvpress; print(transformers.__version__, pikvpress.__all__)"])
    assert told.stdout.startswith(wanted) and "PiKVCache" in told.stdout and "Press" not in told.stdout, told.stderr
    done = run(tmp_path, ["-m", "pytest", *PLUGIN, *SELECTION])
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout)}
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert counts["passed"] > 300  # and not skipped, as tests of presses are
