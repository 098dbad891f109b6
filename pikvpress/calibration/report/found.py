"""The return value of a calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pikvpress.calibration.report.findings import Findings
from pikvpress.gates import Gates


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration.

    Parameters
    ----------
    gates : Gates
        The gates as written.
    path : Path
        Path of the gates file.
    findings : Findings
        Contents of the report.
    """

    gates: Gates
    path: Path
    findings: Findings
