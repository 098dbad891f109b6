"""InfiniteBench's metrics for each of its tasks; all values are in [0, 1]."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from evaluation.benchmarks.extra import extra
from evaluation.benchmarks.token_f1 import english_f1, normalized_chinese, token_f1

SENTENCE_MARKS = ("\n", ":", '"', "'", ".", ",", "?", "!", "{", "}")
CHOICE_MARKS = ("\n", '"', "'", ".", ",", "?", "!", "{", "}")
DEBUG_MARKS = ("\n", "`", "'", '"', "-", "*", "Option", "option")
RUN_MARKS = ("\n", ".", "`", "'", '"', ":")
CHOICE_PREFIXES = ("answer is:", "answer:", "answer is", "option is")
DEBUG_PREFIXES = ("answer is:", "is:", "answer:", "correct option is:")


def among_words(prediction: str, answer: list) -> float:
    """Return whether the answer is a word of the prediction."""
    return float(answer[0] in _spaced(prediction, SENTENCE_MARKS).split())


def first_digits(prediction: str, answer: list) -> float:
    """Return whether the answer is the first run of digits."""
    found = re.search("[0-9]+", prediction)
    return float(answer[0] == (found[0] if found else ""))


def last_word_number(prediction: str, answer: list) -> float:
    """Return whether the last word is the number."""
    words = _spaced(prediction, RUN_MARKS).split()
    try:
        return float(bool(words) and int(words[-1]) == answer[0])
    except ValueError:
        return 0.0


def faulty_function(prediction: str, answer: list) -> float:
    """Return whether the prediction names the function, or the letter of its option; the answer is both."""
    name, letter = answer
    if _last_letter(prediction, "A-J") == letter:
        return 1.0
    text = re.sub(" {2,}", " ", _spaced(prediction.strip(), DEBUG_MARKS))
    if text.startswith((letter, name)):
        return 1.0
    return float((_after(text, DEBUG_PREFIXES) or "").startswith((letter, name)))


def choice(prediction: str, answer: list) -> float:
    """Return whether the prediction chooses the correct letter."""
    text = prediction.strip()
    if _last_letter(text, "A-D") in answer:
        return 1.0
    if text[:1] in ("A", "B", "C", "D"):
        return float(text[0] in answer)
    if text in answer:
        return 1.0
    text = re.sub(" {2,}", " ", _spaced(text, CHOICE_MARKS))
    named = _after(text, CHOICE_PREFIXES)
    if named is not None:
        return float(named.startswith(tuple(answer)))
    return float(next((word for word in text.split() if word in "ABCD"), None) in answer)


def first_number(prediction: str, answer: list) -> float:
    """Return whether the first number is the answer."""
    found = re.search(r"\d+\.\d+|\d+", prediction)
    return float(found is not None and float(found[0]) == answer[0])


def leading_values(prediction: str, answer: list) -> float:
    """Return the share of correct values in the prediction before the first wrong one."""
    right = 0
    for value, digits in zip(answer, re.findall("[0-9]+", prediction), strict=False):
        if str(value) != (digits.lstrip("0") or "0"):
            break
        right += 1
    return right / len(answer)


def any_name(prediction: str, answer: list) -> float:
    """Return whether one of the names occurs, ignoring case."""
    return float(any(name.upper() in prediction.upper() for name in answer))


def english_overlap(prediction: str, answer: list) -> float:
    """Return the F1 of words against the best-matching answer."""
    return max(english_f1(prediction, truth) for truth in answer)


def chinese_overlap(prediction: str, answer: list) -> float:
    """Return the F1 of characters against the best-matching answer."""
    return max(token_f1(normalized_chinese(prediction), normalized_chinese(truth)) for truth in answer)


def summary(prediction: str, answer: list) -> float:
    """Return the F score of ROUGE-Lsum against the best-matching answer, the published metric, which kvpress lacks."""
    scorer = extra("rouge_score.rouge_scorer").RougeScorer(["rougeLsum"])
    return scorer.score_multi(answer, prediction)["rougeLsum"].fmeasure


SCORERS: dict[str, Callable[[str, list], float]] = {
    "passkey": first_digits,
    "kv_retrieval": among_words,
    "number_string": first_digits,
    "longdialogue_qa_eng": any_name,
    "longbook_qa_eng": english_overlap,
    "longbook_choice_eng": choice,
    "code_run": last_word_number,
    "code_debug": faulty_function,
    "math_find": first_number,
    "math_calc": leading_values,
    "longbook_sum_eng": summary,
    "longbook_qa_chn": chinese_overlap,
}


def _spaced(text: str, marks: Iterable[str]) -> str:
    for mark in marks:
        text = text.replace(mark, " ")
    return text


def _last_letter(text: str, letters: str) -> str | None:
    """Return the last single letter of the first line that has one."""
    found = re.search(rf"\b[{letters}]\b(?!.*\b[{letters}]\b)", text)
    return found[0] if found else None


def _after(text: str, prefixes: Iterable[str]) -> str | None:
    """Return the text after the first prefix that occurs and the character after it."""
    for prefix in prefixes:
        _, found, rest = text.partition(prefix)
        if found:
            return rest[1:]
    return None


def as_judged(task: str, answer: list[Any], question: str) -> list[Any]:
    """Convert an answer to the format of the task's metric; on the hub each answer is a list of text.

    Raises
    ------
    ValueError
        If it cannot be converted.
    """
    try:
        if task in ("code_run", "math_calc"):
            return [int(value) for value in answer]
        if task == "math_find":
            return [float(value) if "." in str(value) else int(value) for value in answer]
    except ValueError as error:
        raise ValueError(f"the answers of task {task!r} must be numbers, not {answer!r:.60}: check the data") from error
    if task == "code_debug" and len(answer) == 1:
        option = re.search(rf"^{re.escape(answer[0])}\. (.+)$", question, re.MULTILINE)
        if option is None:
            raise ValueError(f"a question of task {task!r} does not list the option {answer[0]!r:.60}: check the data")
        return [option[1], answer[0]]
    return answer
