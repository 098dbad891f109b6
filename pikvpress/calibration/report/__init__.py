"""The calibration report: the results on held-out contexts, as one HTML page and one figure."""

from pikvpress.calibration.report.figure import draw
from pikvpress.calibration.report.found import Calibration
from pikvpress.calibration.report.page import check_folder, write_report

__all__ = ["Calibration", "check_folder", "draw", "write_report"]
