"""Fitting gates to a model: data, measurements, fits, a report."""

from pikvpress import needs_kvpress  # noqa: F401  # first: it says what is missing
from pikvpress.calibration.calibrate import calibrate
from pikvpress.calibration.fit.bases import calibrate_bases
from pikvpress.calibration.recipe import Recipe
from pikvpress.calibration.report import Calibration, write_report

__all__ = ["Calibration", "Recipe", "calibrate", "calibrate_bases", "write_report"]
