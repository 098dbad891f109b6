"""Questions about documents that a retriever finds."""

from evaluation.benchmarks.rag.benchmark import Rag, RagFidelity

__all__ = ["Rag", "RagFidelity"]
