"""Following a chain of assignments through noise: RULER's "vt"."""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from evaluation.benchmarks.ruler.draws import distinct, letters
from evaluation.benchmarks.ruler.fit import Generator, largest
from evaluation.benchmarks.ruler.templates import NOISE, VARIABLE_TRACKING
from evaluation.rows import Row
from pikvpress.prompts import token_ids

NAMES = 5  # a value and four hops
EXAMPLE_TOKENS = 500


@dataclass(frozen=True)
class VariableTracking(Generator):
    """Names with the same value, each assigned from the previous one; RULER (https://arxiv.org/abs/2404.06654).

    A worked example with a chain of the same length, but shorter names, comes before the question: RULER's
    ``--add_fewshot`` is off by default, but its generator adds the example even without it.

    Parameters
    ----------
    example_lines : int
        Noise lines of the worked example, see `example_lines`.
    """

    example_lines: int

    def least(self, index: int) -> int:
        return NAMES

    def row(self, rng: random.Random, index: int, units: int) -> Row:
        text, names, value = _chain(rng, self.example_lines, name_letters=3)
        example = VARIABLE_TRACKING.text(context=text, query=value, num_v=NAMES) + " " + " ".join(names) + "\n\n"
        text, names, value = _chain(rng, units, name_letters=5)
        return VARIABLE_TRACKING.row(self.task, names, before=example, context=text, query=value, num_v=NAMES)


def example_lines(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the number of noise lines with which the worked example, without its answer, has at most 500 tokens."""

    def tokens(lines: int) -> int:
        text, _, value = _chain(random.Random("example"), lines, name_letters=3)
        return len(token_ids(tokenizer, VARIABLE_TRACKING.text(context=text, query=value, num_v=NAMES)))

    return largest(tokens, NAMES, EXAMPLE_TOKENS) or NAMES


def _chain(rng: random.Random, lines: int, name_letters: int) -> tuple[str, list[str], str]:
    """Return noise lines with a chain of assignments in between, the chain's names, and their value."""
    names = distinct(lambda: letters(rng, string.ascii_uppercase, name_letters), NAMES)
    value = str(rng.randrange(10_000, 99_999))
    chain = [f"VAR {names[0]} = {value}"]
    # The space at the end is RULER's.
    chain += [f"VAR {new} = VAR {old} " for old, new in pairwise(names)]
    text = [NOISE] * lines
    for already, place in enumerate(sorted(rng.sample(range(lines), NAMES))):
        text.insert(place + already, chain[already])
    return "\n".join(text), names, value
