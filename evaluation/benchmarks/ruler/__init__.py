"""RULER (https://arxiv.org/abs/2404.06654), generated at any length; only its two "qa" tasks need a download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from evaluation.benchmarks.benchmark import AnswerBenchmark, Measure, Request, chosen_tasks
from evaluation.benchmarks.ruler.common_words import CommonWords
from evaluation.benchmarks.ruler.fit import Generator, fitted_rows
from evaluation.benchmarks.ruler.frequent_words import FrequentWords
from evaluation.benchmarks.ruler.metric import share_found, string_match
from evaluation.benchmarks.ruler.niah import Needles
from evaluation.benchmarks.ruler.question_answering import QuestionAnswering, read_hotpotqa, read_squad
from evaluation.benchmarks.ruler.variable_tracking import VariableTracking, example_lines
from evaluation.rows import Row

GENERATORS: dict[str, Callable[[str, Request, int], Generator]] = {
    "niah_single_1": lambda task, request, length: Needles(task, length, "noise"),
    "niah_single_2": lambda task, request, length: Needles(task, length, "essay"),
    "niah_single_3": lambda task, request, length: Needles(task, length, "essay", value_kind="uuids"),
    "niah_multikey_1": lambda task, request, length: Needles(task, length, "essay", keys=4),
    "niah_multikey_2": lambda task, request, length: Needles(task, length, "needle"),
    "niah_multikey_3": lambda task, request, length: Needles(task, length, "needle", "uuids", "uuids"),
    "niah_multivalue": lambda task, request, length: Needles(task, length, "essay", values=4),
    "niah_multiquery": lambda task, request, length: Needles(task, length, "essay", keys=4, queries=4),
    "vt": lambda task, request, length: VariableTracking(task, length, example_lines(request.tokenizer)),
    "cwe": lambda task, request, length: CommonWords(task, length),
    "fwe": lambda task, request, length: FrequentWords(task, length),
    "qa_1": lambda task, request, length: QuestionAnswering(task, length, *read_squad(data_file(task, request.data))),
    "qa_2": lambda task, request, length: QuestionAnswering(
        task, length, *read_hotpotqa(data_file(task, request.data))
    ),
}

DATA_FILES = {"qa_1": "squad.json", "qa_2": "hotpotqa.json"}
_HOW_TO_GET = (
    "squad.json is https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json and hotpotqa.json is "
    "http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_dev_distractor_v1.json, as in RULER's "
    "scripts/data/synthetic/json/download_qa_dataset.sh"
)


class Ruler(AnswerBenchmark):
    """Thirteen tasks of retrieval, tracing, counting and question answering.

    ``Request.data`` is a folder with ``squad.json`` for "qa_1" and ``hotpotqa.json`` for "qa_2". By default a task
    without its file is omitted.
    """

    name = "ruler"
    measures = (Measure("string_match", "string match (%)", higher_is_better=True),)
    by_length = True
    generated = True

    def rows(self, request: Request) -> list[Row]:
        if request.length is None:
            raise ValueError("RULER needs a length: pass one in tokens, such as 4096")
        if request.samples < 1:
            raise ValueError(f"samples per task must be at least 1, got {request.samples}")
        if request.data is not None and not any((request.data / file).is_file() for file in DATA_FILES.values()):
            raise FileNotFoundError(
                f"{request.data} has neither {' nor '.join(DATA_FILES.values())}: {_HOW_TO_GET}; "
                "RULER's other tasks need no data"
            )
        rows = []
        for task in chosen_tasks(self.name, request.tasks, list(GENERATORS)):
            if request.tasks is None and task in DATA_FILES and not _has_file(task, request.data):
                continue
            rows += fitted_rows(GENERATORS[task](task, request, request.length), request)
        return rows

    def score(self, row: Row, prediction: str) -> dict[str, float]:
        return {"string_match": 100 * share_found(row, prediction)}

    def metrics(self, rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, dict[str, float]]:
        return string_match(rows, predictions)

    def label(self, tasks: Sequence[str]) -> str:
        """Return "ruler" for all thirteen tasks; for fewer, the name includes their number."""
        count = len(set(tasks))
        return self.name if count == len(GENERATORS) else f"{self.name}-{count}"


def data_file(task: str, folder: Path | None) -> Path:
    """Return the file that a task reads.

    Raises
    ------
    FileNotFoundError
        If it is missing; the message explains where to get it.
    """
    if folder is None or not _has_file(task, folder):
        where = "no folder with data was given" if folder is None else f"{folder} does not have it"
        raise FileNotFoundError(f"task {task!r} reads {DATA_FILES[task]}, and {where}: {_HOW_TO_GET}")
    return folder / DATA_FILES[task]


def _has_file(task: str, folder: Path | None) -> bool:
    return folder is not None and (folder / DATA_FILES[task]).is_file()
