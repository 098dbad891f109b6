"""Divergences between a teacher's and a student's predictions, and the text that they are computed on.

The teacher predicts from the full cache, the student from the compressed one. p and q below are their distributions
over the vocabulary; a divergence is averaged over tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pikvpress.support.registry import Registry

Divergence = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

SKEW = 0.1  # share of the other distribution in DistiLLM's mixtures


def kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Return KL(p ‖ q), the mean over tokens.

    Parameters
    ----------
    teacher, student : torch.Tensor
        Log probabilities, shape (tokens, vocabulary).
    """
    return (teacher.exp() * (teacher - student)).sum(dim=-1).mean()


def skew_kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Return KL(p ‖ α p + (1 - α) q) with α = 0.1 (DistiLLM, https://arxiv.org/abs/2402.03898).

    Its gradient stays bounded where the student gives a token no probability.
    """
    return kl(teacher, _mixed(teacher, student))


def skew_reverse_kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Return KL(q ‖ (1 - α) p + α q) with α = 0.1 (DistiLLM, https://arxiv.org/abs/2402.03898)."""
    return kl(student, _mixed(student, teacher))


@dataclass(frozen=True)
class Objective:
    """The objective of the end-to-end stage: the mean of one or more divergences, each on its own text.

    Parameters
    ----------
    terms : tuple of (str, callable)
        Source of the text, and the divergence on it. "given" is the calibration's own future, "teacher" a continuation
        sampled from the teacher, "student" one sampled from the student, and "corrected" one that the student proposes
        and the teacher corrects, token by token.
    """

    terms: tuple[tuple[str, Divergence], ...]


OBJECTIVES = Registry(
    "objective",
    {
        "kl": Objective((("given", kl),)),
        "skew_kl": Objective((("given", skew_kl),)),
        "skew_reverse_kl": Objective((("given", skew_reverse_kl),)),
        # DistiLLM-2 (https://arxiv.org/abs/2503.07067) raises the teacher's text and lowers the student's own.
        "contrastive": Objective((("teacher", skew_kl), ("student", skew_reverse_kl))),
        # Speculative knowledge distillation (https://arxiv.org/abs/2410.11325).
        "speculative": Objective((("corrected", kl),)),
    },
)


def _mixed(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return log(α exp(first) + (1 - α) exp(second))."""
    weights = torch.tensor([SKEW, 1 - SKEW], device=first.device, dtype=first.dtype).log()
    return torch.logaddexp(first + weights[0], second + weights[1])
