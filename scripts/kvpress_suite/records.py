"""Records of tests: their outcome, and the outputs of the models."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Forward:
    """A sample of a model's output.

    Parameters
    ----------
    shape : list of int
        Shape of the last hidden states.
    dtype : str
        Their type, without ``torch.``.
    numbers : list of float
        Some of the values, always at the same positions.
    probe : bool
        Whether the plugin, not the test, read the remaining cache.
    """

    shape: list[int]
    dtype: str
    numbers: list[float]
    probe: bool = False


@dataclass
class Failure:
    """An exception, and where it was raised.

    Parameters
    ----------
    error : str
        Name of its class.
    message : str
        Its text.
    where : str
        File of the innermost frame, relative to the folder of packages.
    ours : bool
        Whether pikvpress itself raised it.
    """

    error: str
    message: str
    where: str
    ours: bool = False


@dataclass
class Record:
    """A test in a pass.

    Parameters
    ----------
    test : str
        Its id.
    outcome : {"passed", "failed", "skipped"}
        Outcome according to pytest.
    failure : Failure, optional
        Reason of a failure or skip.
    equivalent : bool, optional
        Whether the intended property holds for a PiKVCache, if the assertion cannot hold literally.
    unread : Failure, optional
        Why the plugin could not read the remaining cache.
    forwards : list of Forward
        Outputs in order.
    """

    test: str
    outcome: str
    failure: Failure | None = None
    equivalent: bool | None = None
    unread: Failure | None = None
    forwards: list[Forward] = field(default_factory=list)


def append(record: Record, path: Path) -> None:
    """Append a record to a file, one per line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def read(path: Path) -> dict[str, Record]:
    """Return the records of a file, by test."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {record.test: record for record in map(_record, lines)}


def _record(line: str) -> Record:
    fields = json.loads(line)
    for name in ("failure", "unread"):
        fields[name] = Failure(**fields[name]) if fields[name] else None
    return Record(**fields | {"forwards": [Forward(**each) for each in fields["forwards"]]})
