"""`python -m scripts.newest_transformers`: run a selection of the tests without kvpress, on a newer transformers."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from scripts.newest_transformers.environment import install, run

# What depends most on transformers, of each part that works without kvpress.
SELECTION = (
    *(f"tests/cache/test_{name}.py" for name in ("pikv_cache", "layer", "attention", "reader", "compressible")),
    *(f"tests/cache/test_{name}.py" for name in ("forwards", "keeper", "masks", "schedule", "codecs")),
    "tests/cache/test_ceiling_in_use.py",
    "tests/cache/saving/test_savable.py",
    "tests/cache/tiers/test_layer.py",
    "tests/cache/joining",
    *(f"tests/schedulers/test_{name}.py" for name in ("h2o", "lru_plus", "quest", "duo", "adakv")),
    "tests/store/test_folder.py",
    "tests/kernels/test_packing.py",
    "tests/kernels/test_rotation.py",
    "tests/test_memory.py",
    "tests/test_rotary.py",
    *("-k", "not images"),  # which only presses need; later models want to be told which tokens are of images
)
PLUGIN = ("-p", "scripts.newest_transformers.stand_ins", "-p", "no:cacheprovider", "--tb=short")


def main() -> None:
    """Install into a temporary folder, run the tests there, and end with pytest's status."""
    with tempfile.TemporaryDirectory() as folder:
        failure = install(Path(folder))
        if failure:
            sys.exit(failure)
        done = run(Path(folder), ["-m", "pytest", *PLUGIN, *(sys.argv[1:] or SELECTION)])
    print(done.stdout, done.stderr, sep="")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
