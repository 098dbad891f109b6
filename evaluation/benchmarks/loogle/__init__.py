"""LooGLE."""

from __future__ import annotations

from collections.abc import Sequence

import pandas

from evaluation.benchmarks.benchmark import AnswerBenchmark, Measure, Request, chosen_tasks
from evaluation.benchmarks.by_task import Answered, by_task
from evaluation.benchmarks.hub import Source, load_rows
from evaluation.benchmarks.loogle import overlap
from evaluation.benchmarks.loogle.clozes import exact_match, partial_match
from evaluation.rows import Row

SOURCE = Source("loogle", "simonjegou/loogle", config_per_task=True)
CLOZE = "shortdep_cloze"
TASKS = ("shortdep_qa", "longdep_qa", CLOZE, "longdep_summarization")


class LooGLE(AnswerBenchmark):
    """Questions, clozes and summaries over documents of 2022 and later, with short and long dependencies.

    Li et al., "LooGLE: Can Long-Context Language Models Understand Long Contexts?" (arXiv:2311.04939).

    Notes ----- The score of one answer is the recall of ROUGE-L or, for clozes, the share of masks with exactly the
    correct name; it needs no model. `metrics` needs WordNet and BERTScore's model.
    """

    name = "loogle"
    measures = (Measure("score", "ROUGE-L recall or exact clozes (%)", True),)

    def rows(self, request: Request) -> list[Row]:
        tasks = chosen_tasks(self.name, request.tasks, TASKS)
        return [row for task in tasks for row in load_rows(SOURCE, request.data, task, task)]

    def score(self, row: Row, prediction: str) -> dict[str, float]:
        if row.task == CLOZE:
            right, masks = exact_match(row.answer, prediction)
            return {"score": 100 * right / masks}
        return {"score": 100 * overlap.rouge_recall(row.answer, prediction)["rouge-l"]}

    def metrics(self, rows: Sequence[Row], predictions: Sequence[str]) -> dict[str, dict[str, float]]:
        return {
            task: _clozes(answered) if task == CLOZE else _texts(answered)
            for task, answered in sorted(by_task(rows, predictions).items())
        }


def _clozes(answered: Answered) -> dict[str, float]:
    result = {}
    for name, match in (("exact_match", exact_match), ("partial_match", partial_match)):
        counts = [match(row.answer, prediction) for row, prediction in answered]
        result[name] = round(sum(right for right, _ in counts) / sum(masks for _, masks in counts), 4)
    return result


def _texts(answered: Answered) -> dict[str, float]:
    wordnet = overlap.load_wordnet()
    pairs = [(row.answer, prediction) for row, prediction in answered]
    scores = [
        overlap.bleu(*pair) | overlap.rouge_recall(*pair) | overlap.meteor(*pair, wordnet=wordnet) for pair in pairs
    ]
    answers, predictions = zip(*pairs, strict=True)
    return {**pandas.DataFrame(scores).mean().to_dict(), "bert": overlap.bert(answers, predictions)}
