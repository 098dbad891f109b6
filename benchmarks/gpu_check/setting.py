"""What a section is told: where it runs, and where its rows go."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernels.machine import describe


@dataclass(frozen=True)
class Setting:
    """How a section runs.

    Parameters
    ----------
    output : Path
        Folder of the tables.
    rehearse : bool
        Run on a CPU, kernels in Triton's interpreter, with the smallest shapes.
    """

    output: Path
    rehearse: bool

    @property
    def device(self) -> str:
        """Where tensors are."""
        return "cpu" if self.rehearse else "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Data type of what is timed."""
        return torch.float32 if self.rehearse else torch.bfloat16

    @cached_property
    def about(self) -> dict[str, str]:
        """Machine, versions, date and commit: columns of every row."""
        return describe(self.device)

    def add(self, table: str, columns: Sequence[str], row: Mapping[str, Any]) -> None:
        """Append a row to a table, at once and in one piece: what is killed leaves what it has measured.

        Raises
        ------
        ValueError
            If the row has a column that the table has not.
        """
        unknown = set(row) - set(columns)
        if unknown:
            raise ValueError(
                f"table {table!r} has no columns {', '.join(sorted(unknown))}: it has {', '.join(columns)}"
            )
        path = self.output / f"{table}.csv"
        whole = {name: row.get(name) for name in columns} | self.about
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(whole), lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(whole)
            file.flush()
            os.fsync(file.fileno())
