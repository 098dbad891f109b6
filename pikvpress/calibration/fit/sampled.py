"""The texts on which a teacher and a student are compared: a future as it is, or sampled from one of them or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

# From a text to log probabilities of what follows each of its tokens, shape (tokens, vocabulary).
Predictor = Callable[[Sequence[int]], torch.Tensor]


@torch.no_grad()
def text_of(
    future: Sequence[int],
    source: str,
    predictors: tuple[Predictor, Predictor],
    accepted: int,
    generator: torch.Generator,
) -> list[int]:
    """Return a future as it is, or its first half continued by the teacher, the student, or both.

    Parameters
    ----------
    future : sequence of int
        Token ids.
    source : {"given", "teacher", "student", "corrected"}
        Who continues it; see `objectives.Objective`.
    predictors : (callable, callable)
        The teacher, which predicts from the full cache, and the student, from the compressed one.
    accepted : int
        Of the teacher's best tokens a student's proposal may be, if it is corrected.
    generator : torch.Generator
        Draws tokens; on the CPU.
    """
    if source == "given":
        return list(future)
    teacher, student = predictors
    text = list(future[: (len(future) + 1) // 2])
    while len(text) < len(future):
        proposed = _drawn((teacher if source == "teacher" else student)(text)[-1], generator)
        if source == "corrected":
            proposed = corrected(proposed, teacher(text)[-1], accepted, generator)
        text.append(proposed)
    return text


def corrected(proposed: int, teacher: torch.Tensor, top_k: int, generator: torch.Generator) -> int:
    """Return a student's token if it is among the teacher's ``top_k``, else one sampled from the teacher.

    The interleaved sampling of speculative knowledge distillation (https://arxiv.org/abs/2410.11325).

    Parameters
    ----------
    proposed : int
        What the student would say.
    teacher : torch.Tensor
        The teacher's log probabilities, shape (vocabulary,).
    top_k : int
        How many of the teacher's best tokens are accepted.
    generator : torch.Generator
        Draws the replacement.
    """
    if proposed in teacher.topk(top_k).indices.tolist():
        return proposed
    return _drawn(teacher, generator)


def _drawn(predicted: torch.Tensor, generator: torch.Generator) -> int:
    return int(torch.multinomial(predicted.exp().cpu(), 1, generator=generator))
