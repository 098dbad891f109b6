"""Overlap of an answer with the correct one: BLEU, ROUGE, METEOR and BERTScore, all in [0, 1]."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from evaluation.benchmarks.extra import extra
from evaluation.benchmarks.rouge import rouge

ROUGES = ("rouge-1", "rouge-2", "rouge-l")


def bleu(answer: str, prediction: str) -> dict[str, float]:
    """Return BLEU of single words and of 4-grams."""
    sentence_bleu = extra("nltk.translate.bleu_score").sentence_bleu
    reference, hypothesis = answer.split(), prediction.split()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no overlap is a valid result
        return {
            "bleu1": sentence_bleu([reference], hypothesis, weights=(1, 0, 0, 0)),
            "bleu4": sentence_bleu([reference], hypothesis, weights=(0, 0, 0, 1)),
        }


def rouge_recall(answer: str, prediction: str) -> dict[str, float]:
    """Return the recalls of ROUGE-1, ROUGE-2 and ROUGE-L."""
    scores = rouge(prediction, answer)
    return {name: scores[name]["r"] if scores else 0.0 for name in ROUGES}


def meteor(answer: str, prediction: str, wordnet: Any) -> dict[str, float]:
    """Return METEOR over sets of words, as in kvpress: their order, and so the penalty, depends on Python's hashing."""
    single_meteor_score = extra("nltk.translate.meteor_score").single_meteor_score
    return {"meteor": float(single_meteor_score(set(answer.split()), set(prediction.split()), wordnet=wordnet))}


def bert(answers: Sequence[str], predictions: Sequence[str]) -> float:
    """Return the mean recall of BERTScore, with the answers as candidates, as in kvpress.

    Raises
    ------
    FileNotFoundError
        If its model is not available.
    """
    score = extra("bert_score").score
    try:
        return score(list(answers), list(predictions), lang="EN")[1].mean().item()
    except OSError as error:
        raise FileNotFoundError(
            f"BERTScore needs the model roberta-large, which cannot be loaded ({error}): "
            f"with a network connection, run `hf download FacebookAI/roberta-large`"
        ) from error


def load_wordnet() -> Any:
    """Return the WordNet in which METEOR looks up synonyms; it is downloaded if necessary.

    Raises
    ------
    FileNotFoundError
        If it is not available.
    """
    wordnet = extra("nltk.corpus").wordnet
    for download in (True, False):
        try:
            wordnet.ensure_loaded()
            return wordnet
        except LookupError:
            if download:
                extra("nltk").download("wordnet", quiet=True)
    raise FileNotFoundError(
        "METEOR needs WordNet, which is not installed and could not be downloaded: with a network connection, run "
        "`python -m nltk.downloader wordnet`, or set NLTK_DATA to a folder with corpora/wordnet"
    )
