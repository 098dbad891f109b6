"""Imported first by each part of the package that needs kvpress, so that all of them say so in the same words."""

from __future__ import annotations

from pikvpress.kvpress_at_hand import kvpress, needed_by

if kvpress is None:
    raise needed_by("this part of pikvpress (presses, experts, routing, calibration, the pipeline and the demo)")
