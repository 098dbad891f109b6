"""Figures of the report, drawn once for light and once for dark backgrounds."""
