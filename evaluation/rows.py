"""What a benchmark is made of: questions about contexts, in the form that kvpress's evaluation uses."""

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
        What a press compresses.
    question : str
        Asked after compression; the press does not see it, unless the study is query-aware.
    answer_prefix : str
        Put into the model's mouth before it answers.
    answer : Any
        What is right, in the form that the benchmark's metric reads; JSON-like.
    max_new_tokens : int
        Most tokens of an answer.
    task : str
        Name of the task within the benchmark.
    extras : mapping, optional
        Further columns that the metric reads, by name; JSON-like.
    chat : bool, default=True
        Whether the context stands in the model's chat template; False for texts that are simply continued.

    Raises
    ------
    TypeError, ValueError
        For a field of the wrong type, an empty context, or no room for an answer.
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
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
