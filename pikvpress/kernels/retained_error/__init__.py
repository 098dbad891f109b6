"""What attention loses when only some keys are kept."""

from pikvpress.kernels.retained_error.reference import Measurement, measure

__all__ = ["Measurement", "measure"]
