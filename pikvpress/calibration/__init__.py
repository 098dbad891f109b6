"""Fitting gates for a model: collect, fit, check, report."""

from pikvpress.calibration.bases import calibrate_bases
from pikvpress.calibration.calibrate import Calibration, calibrate
from pikvpress.calibration.report import write_report

__all__ = ["Calibration", "calibrate", "calibrate_bases", "write_report"]
