"""The schema of results: the columns of a finished sample, and the meaning of each measure.

`runner` fills the columns, `journal` stores them, `layout` writes the measures into ``study.yaml``, `report` reads
both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

FULL_CACHE = "no_press"  # the press that removes nothing, which every study runs
POOLED = "kl_p95"  # a measure without per-sample values: it is computed over the tokens of all samples


@dataclass(frozen=True)
class Measure:
    """A measure of a benchmark, which every sample has.

    Parameters
    ----------
    name : str
        Name in result files.
    label : str
        Label in tables and figures, with its unit in parentheses at the end.
    higher_is_better : bool
        Whether higher values are better.
    """

    name: str
    label: str
    higher_is_better: bool

    @property
    def unit(self) -> str:
        """Unit of the measure; empty for a plain number."""
        found = re.search(r"\(([^()]*)\)$", self.label)
        return found[1] if found else ""

    @property
    def percent(self) -> bool:
        """Whether the values are between 0 and 100."""
        return self.unit == "%"

    @property
    def pooled(self) -> bool:
        """Whether it is computed over all samples, so that a single sample has no value."""
        return self.name == POOLED

    def described(self) -> dict[str, object]:
        """Return its description in ``study.yaml``; ``Measure(**described)`` restores the measure."""
        return asdict(self)


TOKENS_READ = Measure("tokens_read", "read before the question (tokens)", False)


@dataclass(frozen=True)
class Column:
    """A column of finished samples.

    Parameters
    ----------
    name : str
        Name in the journal.
    kind : {"text", "number", "flag"}
        Kind of the values.
    unit : str
        Unit of a number; empty for a plain number.
    identifies : bool
        Whether it is part of the unique key of a sample.
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
    Column("length", "number", "tokens", identifies=True, may_be_null=True),  # for benchmarks that support any length
    Column("task", "text"),
    Column("sample", "text", identifies=True),
    Column("press", "text", identifies=True),
    Column("ratio", "number", identifies=True, may_be_null=True),  # for presses that have one
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

# In addition to the columns, a sample has its measures, and the data that they were computed from.
MEASURES = "measures"
OF_ANSWERS = ("prediction", "new_tokens")
OF_PREDICTIONS = ("token_kl",)


def check_measures(benchmark: str, declared: Iterable[Measure], found: Mapping[str, float]) -> None:
    """Check that a sample has exactly the measures that its benchmark declares.

    Raises
    ------
    ValueError
        For a measure that is missing or not declared.
    """
    wanted = [measure.name for measure in declared if not measure.pooled]
    if set(found) != set(wanted):
        raise ValueError(
            f"benchmark {benchmark!r} declares the measures {', '.join(wanted)}, but a sample has "
            f"{', '.join(found) or 'none'}: its `score` and its `measures` must name the same"
        )
