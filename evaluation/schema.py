"""What results hold: the columns of a finished sample, and what each measure means. Everything else reads it here.

`runner` fills the columns, `journal` keeps them, `layout` writes the measures into ``study.yaml``, `report` reads both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

FULL_CACHE = "no_press"  # the press that leaves everything, which every study runs
POOLED = "kl_p95"  # the measure that no sample has alone: it is taken over the tokens of all samples together


@dataclass(frozen=True)
class Measure:
    """A figure of a benchmark, which every sample has.

    Parameters
    ----------
    name : str
        As in the files of results.
    label : str
        As in tables and pictures, with its unit in parentheses at the end.
    higher_is_better : bool
        Which way is good.
    """

    name: str
    label: str
    higher_is_better: bool

    @property
    def unit(self) -> str:
        """What it is measured in; empty for a plain number."""
        found = re.search(r"\(([^()]*)\)$", self.label)
        return found[1] if found else ""

    @property
    def percent(self) -> bool:
        """Whether it runs from 0 to 100."""
        return self.unit == "%"

    @property
    def pooled(self) -> bool:
        """Whether it is taken over all samples together, so that a single one has none."""
        return self.name == POOLED

    def described(self) -> dict[str, object]:
        """Return what ``study.yaml`` says of it; ``Measure(**described)`` is the measure again."""
        return asdict(self)


@dataclass(frozen=True)
class Column:
    """A column of finished samples.

    Parameters
    ----------
    name : str
        In the lines of the journal.
    kind : {"text", "number", "flag"}
        What it holds.
    unit : str
        What a number is measured in; empty for a plain one.
    identifies : bool
        Whether it is part of what makes a sample the only one of its kind.
    may_be_null : bool
        Whether a number may be missing.
    """

    name: str
    kind: str
    unit: str = ""
    identifies: bool = False
    may_be_null: bool = False


COLUMNS = (
    Column("benchmark", "text", identifies=True),
    Column("length", "number", "tokens", identifies=True, may_be_null=True),  # of benchmarks that come at any length
    Column("task", "text"),
    Column("sample", "text", identifies=True),
    Column("press", "text", identifies=True),
    Column("ratio", "number", identifies=True, may_be_null=True),  # of presses that have one
    Column("context_tokens", "number", "tokens"),
    Column("tokens_kept", "number", "tokens"),
    Column("bytes_full", "number", "bytes"),
    Column("bytes_held", "number", "bytes"),
    Column("masked", "flag"),
    Column("prefill_seconds", "number", "s"),
    Column("press_seconds", "number", "s"),
)
KEY = tuple(column.name for column in COLUMNS if column.identifies)
TEXTS = tuple(column.name for column in COLUMNS if column.kind == "text")
NUMBERS = tuple(column.name for column in COLUMNS if column.kind == "number" and column.name != "length")

# Beside the columns a sample has its measures, and what they were taken from.
MEASURES = "measures"
OF_ANSWERS = ("prediction", "new_tokens")
OF_PREDICTIONS = ("token_kl",)


def check_measures(benchmark: str, declared: Iterable[Measure], found: Mapping[str, float]) -> None:
    """Do nothing if a sample has exactly the measures that its benchmark declares.

    Raises
    ------
    ValueError
        For one that is missing, or not declared.
    """
    wanted = [measure.name for measure in declared if not measure.pooled]
    if set(found) != set(wanted):
        raise ValueError(
            f"benchmark {benchmark!r} declares the measures {', '.join(wanted)}, but a sample has "
            f"{', '.join(found) or 'none'}: its `score` and its `measures` must name the same"
        )
