"""The calibration report: what was found on held-out contexts, one HTML page and one picture."""

from pikvpress.calibration.report.figure import draw
from pikvpress.calibration.report.found import Calibration
from pikvpress.calibration.report.page import check_folder, write_report

__all__ = ["Calibration", "check_folder", "draw", "write_report"]
