"""What is written down of a test: how it ended, and which numbers the models put out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Forward:
    """A sample of what a model put out.

    Parameters
    ----------
    shape : list of int
        Of the last hidden states.
    dtype : str
        Their type, without ``torch.``.
    numbers : list of float
        Some of them, always at the same places.
    probe : bool
        Whether the plugin read the cache that a test left, rather than the test.
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
        File of the innermost frame, below the folder that packages lie in.
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
        What pytest says.
    failure : Failure, optional
        Why it failed, or was skipped.
    equivalent : bool, optional
        Whether what the assertion means holds of a PiKVCache, where it cannot hold to the letter.
    unread : Failure, optional
        Why the plugin could not read the cache that the test left.
    forwards : list of Forward
        In order.
    """

    test: str
    outcome: str
    failure: Failure | None = None
    equivalent: bool | None = None
    unread: Failure | None = None
    forwards: list[Forward] = field(default_factory=list)


def append(record: Record, path: Path) -> None:
    """Add a record to a file, a line each."""
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
