"""The rows of a benchmark: questions about contexts, in the format of kvpress's evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TEXT_FIELDS = ("context", "question", "answer_prefix", "task")


@dataclass(frozen=True)
class Row:
    """One question about one context.

    Parameters
    ----------
    context : str
        Text that a press compresses.
    question : str
        Question after compression; the press does not see it unless the study is query-aware.
    answer_prefix : str
        Fixed start of the model's answer.
    answer : Any
        The correct answer, in the format of the benchmark's metric; JSON-like.
    max_new_tokens : int
        Maximum number of tokens of an answer.
    task : str
        Name of the task within the benchmark.
    extras : mapping, optional
        Additional columns for the metric, by name; JSON-like.
    chat : bool, default=True
        Whether the context is inside the model's chat template; False for texts that are simply continued.

    Raises
    ------
    TypeError, ValueError
        For a field of the wrong type, an empty context, or `max_new_tokens` below 1.
    """

    context: str
    question: str
    answer_prefix: str
    answer: Any
    max_new_tokens: int
    task: str
    extras: Mapping[str, Any] = field(default_factory=dict)
    chat: bool = True

    def __post_init__(self) -> None:
        for name in TEXT_FIELDS:
            value = getattr(self, name)
            if not isinstance(value, str):
                raise TypeError(f"{name} must be text, not {type(value).__name__} ({value!r:.60}): check the data")
        if not self.context.strip():
            raise ValueError(f"a row of task {self.task!r} has an empty context: check the data")
        if isinstance(self.max_new_tokens, bool) or not isinstance(self.max_new_tokens, int):
            raise TypeError(
                f"max_new_tokens must be an integer, not {type(self.max_new_tokens).__name__}: check the data"
            )
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
