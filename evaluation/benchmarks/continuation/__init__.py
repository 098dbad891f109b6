"""How far predictions along a long continuation drift while a cache stays within a ceiling."""

from evaluation.benchmarks.continuation.benchmark import Continuation

__all__ = ["Continuation"]
