"""What a calibration gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pikvpress.calibration.report.findings import Findings
from pikvpress.gates import Gates


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Parameters
    ----------
    gates : Gates
        As written.
    path : Path
        Where.
    findings : Findings
        What the report shows.
    """

    gates: Gates
    path: Path
    findings: Findings
