"""Codecs of other packages, which are installed only by those who compare with them."""

from __future__ import annotations

from evaluation.rivals.nexusquant import KeyKeyPress, NexusQuantPress
from evaluation.rivals.turboquant import TurboQuantPress

__all__ = ["KeyKeyPress", "NexusQuantPress", "TurboQuantPress"]
