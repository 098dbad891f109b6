"""LongBench's metrics for each of its tasks; all values are in [0, 1]."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

from evaluation.benchmarks.extra import extra
from evaluation.benchmarks.rouge import rouge
from evaluation.benchmarks.token_f1 import english_f1, normalized_chinese, token_f1

# Few-shot tasks, where a model may continue with another example: only the first line is its answer.
FIRST_LINE = ("trec", "triviaqa", "samsum", "lsht")
CODE_REMARKS = ("`", "#", "//")


def best_score(task: str, prediction: str, answers: Sequence[str], classes: Sequence[str] | None) -> float:
    """Return the score against the best-matching answer."""
    return max((SCORERS[task](prediction, answer, classes or ()) for answer in answers), default=0.0)


def english_overlap(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """Return the F1 of words."""
    return english_f1(prediction, answer)


def chinese_overlap(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """Return the F1 of jieba's words."""
    sides = ([normalized_chinese(word) for word in _chinese_words(text)] for text in (prediction, answer))
    return token_f1(*([word for word in words if word] for words in sides))


def english_summary(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """Return the F of ROUGE-L."""
    scores = rouge(prediction, answer)
    return scores["rouge-l"]["f"] if scores else 0.0


def chinese_summary(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """Return the F of ROUGE-L over jieba's words."""
    return english_summary(" ".join(_chinese_words(prediction)), " ".join(_chinese_words(answer)), classes)


def classification(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """Return 1 divided by the number of classes in the prediction, if the correct one is among them.

    Classes whose name is a part of the correct one's do not count. Like the published scorer, this skips the class
    after each one that it drops.
    """
    kept, just_dropped = [], False
    for name in classes:
        if name not in prediction:
            continue
        just_dropped = not just_dropped and name in answer and name != answer
        if not just_dropped:
            kept.append(name)
    return 1 / len(kept) if answer in kept else 0.0


def paragraph(pattern: str) -> Callable[[str, str, Sequence[str]], float]:
    """Return a scorer for the share of numbers in the prediction that equal the paragraph in the answer."""

    def score(prediction: str, answer: str, classes: Sequence[str]) -> float:
        number = re.search(pattern, answer)
        if number is None:
            raise ValueError(f"an answer must name a paragraph ({pattern}), not {answer!r:.60}: check the data")
        return count(prediction, number[1], classes)

    return score


def count(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """Return the share of numbers in the prediction that are correct."""
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(answer) / len(numbers) if numbers else 0.0


def code(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """Return the similarity of the answer and the first line that is neither comment nor fence, in integer percent."""
    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in CODE_REMARKS)), "")
    return round(100 * SequenceMatcher(None, line, answer).ratio()) / 100


def _chinese_words(text: str) -> list[str]:
    jieba = extra("jieba")
    jieba.setLogLevel(logging.WARNING)
    return list(jieba.cut(text, cut_all=False))


SCORERS: dict[str, Callable[[str, str, Sequence[str]], float]] = {
    "narrativeqa": english_overlap,
    "qasper": english_overlap,
    "multifieldqa_en": english_overlap,
    "hotpotqa": english_overlap,
    "2wikimqa": english_overlap,
    "musique": english_overlap,
    "gov_report": english_summary,
    "qmsum": english_summary,
    "multi_news": english_summary,
    "trec": classification,
    "triviaqa": english_overlap,
    "samsum": english_summary,
    "passage_count": count,
    "passage_retrieval_en": paragraph(r"Paragraph (\d+)"),
    "lcc": code,
    "repobench-p": code,
    "multifieldqa_zh": chinese_overlap,
    "dureader": chinese_summary,
    "vcsum": chinese_summary,
    "lsht": classification,
    "passage_retrieval_zh": paragraph(r"段落(\d+)"),
}
