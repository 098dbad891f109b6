"""Texts on which a teacher and a student are compared: the given future, or text sampled from one or both of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

# From a text to log probabilities of the next token after each of its tokens, shape (tokens, vocabulary).
Predictor = Callable[[Sequence[int]], torch.Tensor]


@torch.no_grad()
def text_of(
    future: Sequence[int],
    source: str,
    predictors: tuple[Predictor, Predictor],
    accepted: int,
    generator: torch.Generator,
) -> list[int]:
    """Return a future unchanged, or its first half continued by the teacher, the student, or both.

    Parameters
    ----------
    future : sequence of int
        Token ids.
    source : {"given", "teacher", "student", "corrected"}
        Source of the continuation; see `objectives.Objective`.
    predictors : (callable, callable)
        The teacher, which predicts from the full cache, and the student, from the compressed one.
    accepted : int
        In "corrected" texts, a student's proposal is accepted if it is among this many of the teacher's best tokens.
    generator : torch.Generator
        Random generator for tokens, on the CPU.
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
    """Return a student's token if it is among the teacher's ``top_k``, otherwise one sampled from the teacher.

    This is the interleaved sampling of speculative knowledge distillation (https://arxiv.org/abs/2410.11325).

    Parameters
    ----------
    proposed : int
        Token proposed by the student.
    teacher : torch.Tensor
        The teacher's log probabilities, shape (vocabulary,).
    top_k : int
        Number of the teacher's best tokens that are accepted.
    generator : torch.Generator
        Random generator for the replacement.
    """
    if proposed in teacher.topk(top_k).indices.tolist():
        return proposed
    return _drawn(teacher, generator)


def _drawn(predicted: torch.Tensor, generator: torch.Generator) -> int:
    return int(torch.multinomial(predicted.exp().cpu(), 1, generator=generator))
