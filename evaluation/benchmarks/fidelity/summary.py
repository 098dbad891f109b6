"""Summary of many samples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def summarise(tasks: Sequence[str], figures: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return summaries by task, and of all samples under "all".

    Parameters
    ----------
    tasks : sequence of str
        Of each sample.
    figures : sequence of mapping
        Of each sample: its "measures", and "token_kl".
    """
    by_task = {
        task: [f for name, f in zip(tasks, figures, strict=True) if name == task] for task in dict.fromkeys(tasks)
    }
    return {name: _summary(group) for name, group in (by_task | {"all": list(figures)}).items()}


def _summary(figures: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    measures = [figure["measures"] for figure in figures]
    tokens = np.concatenate([figure["token_kl"] for figure in figures])
    return {
        "kl": statistics.mean(m["kl"] for m in measures),
        "kl_p95": float(np.percentile(tokens, 95)),
        "top1_agreement": statistics.mean(m["top1"] for m in measures),
        "perplexity_ratio": math.exp(statistics.mean(m["log_perplexity_ratio"] for m in measures)),
    }
