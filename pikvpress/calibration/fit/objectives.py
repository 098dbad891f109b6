"""Divergences between a teacher's and a student's predictions, and which text they are taken on.

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
    """What the end-to-end stage minimises: the mean of one divergence or more, each on a text of its own.

    Parameters
    ----------
    terms : tuple of (str, callable)
        Where the text comes from, and the divergence on it. "given" is the calibration's own future; "teacher" a
        continuation sampled from the teacher; "student" one sampled from the student; "corrected" one that the
        student proposes and the teacher corrects, token by token.
    """

    terms: tuple[tuple[str, Divergence], ...]


OBJECTIVES = Registry(
    "objective",
    {
        "kl": Objective((("given", kl),)),
        "skew_kl": Objective((("given", skew_kl),)),
        "skew_reverse_kl": Objective((("given", skew_reverse_kl),)),
        # DistiLLM-2 (https://arxiv.org/abs/2503.07067) raises what the teacher says, lowers what only the student says.
        "contrastive": Objective((("teacher", skew_kl), ("student", skew_reverse_kl))),
        # Speculative knowledge distillation (https://arxiv.org/abs/2410.11325).
        "speculative": Objective((("corrected", kl),)),
    },
)


def _mixed(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return log(α exp(first) + (1 - α) exp(second))."""
    weights = torch.tensor([SKEW, 1 - SKEW], device=first.device, dtype=first.dtype).log()
    return torch.logaddexp(first + weights[0], second + weights[1])
