"""How far predictions from a compressed cache are from those of the full one."""

from evaluation.benchmarks.fidelity.benchmark import Fidelity

__all__ = ["Fidelity"]
