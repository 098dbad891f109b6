"""RULER's prompts, verbatim, split into context, question and answer prefix as in kvpress.

From RULER (https://arxiv.org/abs/2404.06654, Apache-2.0), ``scripts/data/synthetic/constants.py``. The wording is part
of the benchmark: another wording would give other results.
"""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.rows import Row


@dataclass(frozen=True)
class Template:
    """A prompt with fields in braces.

    Parameters
    ----------
    context, question, answer_prefix : str
        Its three parts, which together are RULER's template.
    max_new_tokens : int
        Maximum number of tokens of an answer.
    """

    context: str
    question: str
    answer_prefix: str
    max_new_tokens: int

    def row(self, task: str, answer: list[str], before: str = "", **fields: object) -> Row:
        """Return a row with the fields filled in.

        Parameters
        ----------
        task : str
            Name of the task.
        answer : list of str
            The references.
        before : str, default=""
            Text before the context, for a worked example.
        **fields
            Values of the fields.
        """
        return Row(
            context=before + self.context.format(**fields),
            question=self.question.format(**fields),
            answer_prefix=self.answer_prefix.format(**fields),
            answer=answer,
            max_new_tokens=self.max_new_tokens,
            task=task,
        )

    def text(self, **fields: object) -> str:
        """Return the complete prompt with the fields filled in."""
        return (self.context + self.question + self.answer_prefix).format(**fields)


NEEDLES = Template(
    context="Some special magic {kind} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n{context}\n",
    question="What are all the special magic {kind} for {query} mentioned in the provided text? ",
    answer_prefix="The special magic {kind} for {query} mentioned in the provided text are",
    max_new_tokens=128,
)

ONE_NEEDLE = Template(
    context="A special magic {kind} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n{context}\n",
    question="What is the special magic {kind} for {query} mentioned in the provided text? ",
    answer_prefix="The special magic {kind} for {query} mentioned in the provided text is",
    max_new_tokens=128,
)

VARIABLE_TRACKING = Template(
    context="Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\n",
    question="Question: Find all variables that are assigned the value {query} in the text above. ",
    answer_prefix="Answer: According to the chain(s) of variable assignment in the text above, {num_v} variables are "
    "assigned the value {query}, they are: ",
    max_new_tokens=30,
)

COMMON_WORDS = Template(
    context="Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n{context}\n",
    question="Question: What are the 10 most common words in the above list? ",
    answer_prefix="Answer: The top 10 words that appear most often in the list are:",
    max_new_tokens=120,
)

FREQUENT_WORDS = Template(
    context="Read the following coded text and track the frequency of each coded word. "
    "Find the three most frequently appeared coded words. {context}\n",
    question="Question: Do not provide any explanation. Please ignore the dots '....'. "
    "What are the three most frequently appeared words in the above coded text? ",
    answer_prefix="Answer: According to the coded text above, the three most frequently appeared words are:",
    max_new_tokens=50,
)

QUESTION_ANSWERING = Template(
    context="Answer the question based on the given documents. Only give me the answer and do not output any other "
    "words.\n\nThe following are given documents.\n\n{context}\n\n",
    question="Answer the question based on the given documents. Only give me the answer and do not output any other "
    "words.\n\nQuestion: {query} ",
    answer_prefix="Answer:",
    max_new_tokens=32,
)

# Haystacks of three tasks: the noise line, and other needles.
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {kind} for {key} is: {value}."
DOCUMENT = "Document {number}:\n{text}"
