"""A study: benchmarks, presses and ratios, from the command line or a YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from evaluation.benchmarks.benchmark import Benchmark
from evaluation.benchmarks.registry import BENCHMARKS
from evaluation.labels import checked_labels
from evaluation.presses import FULL_CACHE, PressSpec, parse_press
from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.presses.checks import checked_ratio
from pikvpress.support.registry import check_name

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class BenchmarkSettings:
    """One benchmark of a study.

    Parameters
    ----------
    name : str
        Name of the benchmark.
    lengths : tuple of int
        Lengths in tokens, for benchmarks that support any length.
    samples : int
        Rows per task, for generated benchmarks.
    fraction : float
        Share of the rows of every task to run, in (0, 1]; chosen by the seed.
    tasks : tuple of str, optional
        Only these tasks.
    data : Path, optional
        A local folder with the benchmark's data.
    continued : int, optional
        Tokens after the prompt, for benchmarks that go on; by default three quarters of the length.
    at_once : int
        Tokens that are read at once after the prompt, for benchmarks that go on: 1 as in generation, up to 64. More are
        faster, but pages leave the recent window later by up to so many tokens, and ceilings hold between readings.
    """

    name: str
    lengths: tuple[int, ...] = ()
    samples: int = 25
    fraction: float = 1.0
    tasks: tuple[str, ...] | None = None
    data: Path | None = None
    continued: int | None = None
    at_once: int = 1

    @property
    def benchmark(self) -> Benchmark:
        """The benchmark."""
        return BENCHMARKS[self.name]

    def __post_init__(self) -> None:
        by_length = self.benchmark.by_length
        if by_length and not self.lengths:
            raise ValueError(f"benchmark {self.name!r} supports any length: specify one, for example --length 1024")
        if self.lengths and not by_length:
            raise ValueError(f"the texts of benchmark {self.name!r} have fixed lengths: omit --length")
        for length in self.lengths:
            _check_number("length", length, int, 1)
        if len(set(self.lengths)) < len(self.lengths):
            raise ValueError(f"a length of benchmark {self.name!r} is given twice: {list(self.lengths)}")
        _check_number("samples", self.samples, int, 1)
        _check_number("fraction", self.fraction, (int, float))
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, got {self.fraction}")
        self._check_reading()

    def _check_reading(self) -> None:
        if (self.continued is not None or self.at_once != 1) and not self.benchmark.goes_on:
            raise ValueError(f"benchmark {self.name!r} has no continuations: omit continued and at_once")
        if self.continued is not None:
            _check_number("continued", self.continued, int, 1)
        _check_number("at_once", self.at_once, int, 1)
        if PAGE % self.at_once:
            raise ValueError(f"at_once must divide a page of {PAGE} tokens, got {self.at_once}")


@dataclass(frozen=True)
class Study:
    """The settings of a study.

    Parameters
    ----------
    benchmarks : tuple of BenchmarkSettings
        Benchmarks to run presses on.
    presses : tuple of PressSpec
        Presses to compare; the full cache is always run as well.
    ratios : tuple of float
        Shares to remove, in [0, 1).
    output : Path
        Folder of the results.
    model : str, optional
        See `pikvpress.default_model.resolve_model`.
    seed : int
        Random seed of the samples, and of presses that draw random numbers.
    query_aware : bool
        Whether presses see the question after the context.
    max_new_tokens : int, optional
        Maximum number of tokens of an answer; overrides the value of each benchmark.
    batch_size : int
        Maximum number of compressed contexts of one text that are processed in one batch. Memory usage grows with it.
    share_prefill : bool
        Whether one prefill serves all presses that allow it. Without it the hidden states of all layers need not be
        kept, which for a large model and a long context are larger than its cache.
    dtype : str
        Data type of the model's weights; "auto" is the stored type, and float32 for a GGUF file.
    device : str, optional
        By default a GPU if there is one.
    labels : mapping, optional
        Short labels of presses for reports, by name.
    """

    benchmarks: tuple[BenchmarkSettings, ...]
    presses: tuple[PressSpec, ...]
    ratios: tuple[float, ...]
    output: Path
    model: str | None = None
    seed: int = 0
    query_aware: bool = False
    max_new_tokens: int | None = None
    batch_size: int = 64
    share_prefill: bool = True
    dtype: str = "auto"
    device: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.benchmarks:
            raise ValueError(f"no benchmark is given: choose among {', '.join(sorted(BENCHMARKS))}")
        for what, values in (("press", self.names), ("ratio", self.ratios)):
            if len(set(values)) < len(values):
                raise ValueError(f"a {what} is given twice: {', '.join(map(str, values))}")
        taken = [(chosen.name, length) for chosen in self.benchmarks for length in chosen.lengths or (None,)]
        if len(set(taken)) < len(taken):
            raise ValueError("a benchmark is given twice at the same length: merge its settings")
        for ratio in self.ratios:
            checked_ratio(ratio)
        if 0 in self.ratios:
            raise ValueError("ratio 0 removes nothing: the full cache is always run, use ratios above 0")
        if not self.ratios and any(press.has_ratio for press in self.presses):
            raise ValueError("no ratio is given: specify the share to remove, for example --ratio 0.5")
        if FULL_CACHE in self.names:
            raise ValueError(f"{FULL_CACHE} must not be given: the full cache is always run")
        _check_number("seed", self.seed, int)
        _check_number("batch_size", self.batch_size, int, 1)
        if self.max_new_tokens is not None:
            _check_number("max_new_tokens", self.max_new_tokens, int, 1)
        check_name(self.dtype, DTYPES, "dtype")
        checked_labels(self.labels, self.names, "this study")
        for press in self.presses:
            self._check_goes_on(press)
            press.strategy.validate(press.name, self)

    def _check_goes_on(self, press: PressSpec) -> None:
        for chosen in self.benchmarks:
            if chosen.benchmark.goes_on and not press.strategy.goes_on:
                raise ValueError(
                    f"benchmark {chosen.name!r} reads long continuations under a ceiling, which {press.name} does not "
                    "keep: use presses named scheduled_... or prefill_decoding_..., or omit it"
                )
            if chosen.benchmark.goes_on and self.query_aware:
                raise ValueError(f"benchmark {chosen.name!r} has no questions that a press could see: omit query_aware")

    @property
    def names(self) -> tuple[str, ...]:
        """The presses' names, including settings."""
        return tuple(press.name for press in self.presses)


def make_study(settings: Mapping[str, Any]) -> Study:
    """Return a study from settings by name, as in a YAML file.

    Parameters
    ----------
    settings : mapping
        ``benchmarks`` (names, or mappings with a ``name`` and their own lengths, samples, fraction, tasks and data),
        ``presses``, ``ratios``, ``output``, and other fields of `Study`. ``lengths``, ``samples``, ``fraction``,
        ``tasks`` and ``data`` at the top level are defaults for all benchmarks.

    Raises
    ------
    ValueError, TypeError
        For unknown settings (the message suggests similar names), values out of range, or incompatible settings.
    """
    own = [item.name for item in fields(BenchmarkSettings) if item.name != "name"]
    known = [*(item.name for item in fields(Study)), *own]
    for name in settings:
        check_name(name, known, "setting of a study")
    for name in ("benchmarks", "presses", "output"):
        if not settings.get(name):
            raise ValueError(f"a study needs {name}")
    common = {name: settings[name] for name in own if settings.get(name) is not None}
    benchmarks = tuple(_benchmark(entry, common, own) for entry in _listed(settings, "benchmarks"))
    rest = {name: value for name, value in settings.items() if name in known and name not in ("benchmarks", *own)}
    rest["presses"] = tuple(parse_press(str(name)) for name in _listed(settings, "presses"))
    rest["ratios"] = tuple(_listed(settings, "ratios"))
    rest["output"] = Path(rest["output"]).expanduser()
    return Study(benchmarks=benchmarks, **{name: value for name, value in rest.items() if value is not None})


def read_study(file: Path) -> dict[str, Any]:
    """Return the settings in a YAML file.

    Raises
    ------
    FileNotFoundError, ValueError
        If it does not exist, or is not a mapping.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no study at {file}: pass a YAML file")
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} must map settings to values, as in `presses: [knorm, moe_router]`")
    return settings


def with_options(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's settings, overridden by options; labels of presses that are not run are omitted."""
    names = [str(name) for name in _listed(settings, "presses")]
    labels = checked_labels(settings.get("labels"), names, "the study")
    changed = {**settings, **given}
    if labels:
        run = {str(name) for name in _listed(changed, "presses")}
        changed["labels"] = {name: label for name, label in labels.items() if name in run}
    return changed


def _benchmark(entry: Any, common: dict[str, Any], own: Sequence[str]) -> BenchmarkSettings:
    given = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
    for name in given:
        check_name(name, ["name", *own], "setting of a benchmark")
    if not isinstance(given.get("name"), str):
        raise ValueError(f"a benchmark needs a name: {entry!r}")
    settings = common | given
    if not BENCHMARKS[given["name"]].by_length and "lengths" not in given:
        settings.pop("lengths", None)  # those at the top level are for benchmarks that support any length
    for name in ("lengths", "tasks"):
        if settings.get(name) is not None:
            settings[name] = tuple(_listed(settings, name))
    if settings.get("data") is not None:
        settings["data"] = Path(settings["data"]).expanduser()
    return BenchmarkSettings(**settings)


def _listed(settings: Mapping[str, Any], name: str) -> list[Any]:
    value = settings.get(name) or []
    return list(value) if isinstance(value, list | tuple) else [value]


def _check_number(name: str, value: Any, kind: Any, least: float | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name} must be {'an integer' if kind is int else 'a number'}, got {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
