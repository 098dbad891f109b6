"""The document of the demo, and the facts planted in it at known places."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Question:
    """A question about a document.

    Attributes
    ----------
    text : str
        The question.
    answer : str or None
        What a right answer contains; None if it is not known.
    """

    text: str
    answer: str | None = None


@dataclass(frozen=True)
class Fact:
    """A sentence to plant before a share of the document's paragraphs, and what to ask about it."""

    depth: float
    sentence: str
    question: Question


FACTS = (
    Fact(
        0.1,
        "The special code of the harbour office is 7316042.",
        Question("What is the special code of the harbour office?", "7316042"),
    ),
    Fact(
        0.3,
        "The special code of the boat yard is 2590871.",
        Question("What is the special code of the boat yard?", "2590871"),
    ),
    Fact(
        0.5,
        "The special code of the lighthouse is 4168395.",
        Question("What is the special code of the lighthouse?", "4168395"),
    ),
    Fact(
        0.7,
        "The special code of the library is 8023657.",
        Question("What is the special code of the library?", "8023657"),
    ),
    Fact(
        0.9,
        "The special code of the rope works is 6941208.",
        Question("What is the special code of the rope works?", "6941208"),
    ),
)


def demo_document() -> tuple[str, list[Question]]:
    """Return the document with the facts planted, and the questions about them."""
    paragraphs = files("pikvpress.demo").joinpath("document.txt").read_text(encoding="utf-8").strip().split("\n\n")
    for fact in sorted(FACTS, key=lambda fact: -fact.depth):
        paragraphs.insert(round(fact.depth * len(paragraphs)), fact.sentence)
    return "\n\n".join(paragraphs), [fact.question for fact in FACTS]
