"""The document of the demo, and the facts planted in it at known positions."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class DemoQuestion:
    """A question about a document.

    Attributes
    ----------
    text : str
        The question.
    answer : str or None
        Text that a correct answer contains; None if unknown.
    """

    text: str
    answer: str | None = None


@dataclass(frozen=True)
class Fact:
    """A sentence to plant at a relative position in the document's paragraphs, and a question about it."""

    depth: float
    sentence: str
    question: DemoQuestion


FACTS = (
    Fact(
        0.08,
        "The magic number of the town of Sallow Haven is 7316042.",
        DemoQuestion("What is the magic number of the town of Sallow Haven?", "7316042"),
    ),
    Fact(
        0.25,
        "The favourite dish of the lighthouse keeper is pumpkin soup with walnuts.",
        DemoQuestion("What is the favourite dish of the lighthouse keeper?", "pumpkin"),
    ),
    Fact(
        0.42,
        "The name of the ship that brought the first oranges is the Golden Partridge.",
        DemoQuestion("What is the name of the ship that brought the first oranges?", "Golden Partridge"),
    ),
    Fact(
        0.58,
        "The password of the reading room is 'crimson tortoise'.",
        DemoQuestion("What is the password of the reading room?", "crimson tortoise"),
    ),
    Fact(
        0.75,
        "The most expensive painting in the museum shows a blue rhinoceros.",
        DemoQuestion("What does the most expensive painting in the museum show?", "blue rhinoceros"),
    ),
    Fact(
        0.92,
        "The prize for the best cabbage is a silver teapot.",
        DemoQuestion("What is the prize for the best cabbage?", "silver teapot"),
    ),
)


def demo_document() -> tuple[str, list[DemoQuestion]]:
    """Return the document with the planted facts, and the questions about them."""
    paragraphs = files("pikvpress.demo").joinpath("document.txt").read_text(encoding="utf-8").strip().split("\n\n")
    for fact in sorted(FACTS, key=lambda fact: -fact.depth):
        paragraphs.insert(round(fact.depth * len(paragraphs)), fact.sentence)
    return "\n\n".join(paragraphs), [fact.question for fact in FACTS]
