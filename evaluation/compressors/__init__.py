"""Strategies for running a press on a context; an entry in the press registry refers to one."""

from __future__ import annotations

from evaluation.compressors.compressor import Compressor
from evaluation.compressors.eager_prefill import EagerPrefill
from evaluation.compressors.full_cache import FullCache
from evaluation.compressors.joining import Joining
from evaluation.compressors.oracle import Oracle
from evaluation.compressors.own_prefill import OwnPrefill, WithQuestion
from evaluation.compressors.prefilled_context import PrefilledContext
from evaluation.compressors.replay import Replay
from evaluation.compressors.shared_prefill import SharedPrefill
from evaluation.compressors.shared_scores import SharedScores
from evaluation.compressors.source_context import SourceContext
from evaluation.compressors.while_answering import WhileAnswering
from evaluation.compressors.while_reading import WhileReading
from evaluation.compressors.with_package import WithPackage

__all__ = [
    "Compressor",
    "EagerPrefill",
    "FullCache",
    "Joining",
    "Oracle",
    "OwnPrefill",
    "PrefilledContext",
    "Replay",
    "SharedPrefill",
    "SharedScores",
    "SourceContext",
    "WhileAnswering",
    "WhileReading",
    "WithPackage",
    "WithQuestion",
]
