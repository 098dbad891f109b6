"""The time that each expert adds to a prefill."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from pikvpress.calibration.measure.examine import prefill_seen
from pikvpress.experts import Expert, LayerInput
from pikvpress.experts.projection_tap import ProjectionTap
from pikvpress.stopwatch import Stopwatch

ROUNDS = 3
RATIO = 0.75  # hardly affects the time


@torch.no_grad()
def expert_times(model: PreTrainedModel, context: Sequence[int], experts: Sequence[Expert]) -> list[float]:
    """Return the time of each expert relative to that of the prefill, the median of several prefills.

    Parameters
    ----------
    model : PreTrainedModel
        The model, which is restored at the end.
    context : sequence of int
        Token ids of the context.
    experts : sequence of Expert
        Experts that already have access to the model and can score the context.
    """
    shares = torch.tensor([_measured(model, context, experts) for _ in range(ROUNDS + 1)])
    return shares[1:].median(dim=0).values.tolist()  # the first prefill warms up


def _measured(model: PreTrainedModel, context: Sequence[int], experts: Sequence[Expert]) -> list[float]:
    watches = [Stopwatch() for _ in experts]

    def score(layer: LayerInput) -> None:
        for expert, watch in zip(experts, watches, strict=True):
            with watch.span(layer.keys.device):
                expert.score(layer, RATIO)

    tap = ProjectionTap()
    with tap.on(model):
        began = time.perf_counter()
        prefill_seen(model, context, score, tap)
        spent = [watch.seconds for watch in watches]
        whole = time.perf_counter() - began - sum(spent)
    return [seconds / whole for seconds in spent]
