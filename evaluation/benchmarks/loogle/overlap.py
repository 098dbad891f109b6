"""How much of a right answer's wording an answer has: BLEU, ROUGE, METEOR and BERTScore, all in 0..1."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from evaluation.benchmarks.extra import extra
from evaluation.benchmarks.rouge import rouge

ROUGES = ("rouge-1", "rouge-2", "rouge-l")


def bleu(answer: str, prediction: str) -> dict[str, float]:
    """Return BLEU of single words and of runs of four."""
    sentence_bleu = extra("nltk.translate.bleu_score").sentence_bleu
    reference, hypothesis = answer.split(), prediction.split()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is shared is a result
        return {
            "bleu1": sentence_bleu([reference], hypothesis, weights=(1, 0, 0, 0)),
            "bleu4": sentence_bleu([reference], hypothesis, weights=(0, 0, 0, 1)),
        }


def rouge_recall(answer: str, prediction: str) -> dict[str, float]:
    """Return the recalls of ROUGE-1, ROUGE-2 and ROUGE-L."""
    scores = rouge(prediction, answer)
    return {name: scores[name]["r"] if scores else 0.0 for name in ROUGES}


def meteor(answer: str, prediction: str, wordnet: Any) -> dict[str, float]:
    """Return METEOR, over sets of words as kvpress has it: their order, and so its penalty, is Python's hashing's."""
    single_meteor_score = extra("nltk.translate.meteor_score").single_meteor_score
    return {"meteor": float(single_meteor_score(set(answer.split()), set(prediction.split()), wordnet=wordnet))}


def bert(answers: Sequence[str], predictions: Sequence[str]) -> float:
    """Return the mean recall of BERTScore, with the answers as candidates, as kvpress has it.

    Raises
    ------
    FileNotFoundError
        If its model cannot be had.
    """
    score = extra("bert_score").score
    try:
        return score(list(answers), list(predictions), lang="EN")[1].mean().item()
    except OSError as error:
        raise FileNotFoundError(
            f"BERTScore needs the model roberta-large, which cannot be loaded ({error}): "
            f"where there is a network, run `hf download FacebookAI/roberta-large`"
        ) from error


def load_wordnet() -> Any:
    """Return the WordNet that METEOR looks synonyms up in, downloaded if need be.

    Raises
    ------
    FileNotFoundError
        If it cannot be had.
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
        "METEOR needs WordNet, which is not installed and could not be downloaded: where there is a network, run "
        "`python -m nltk.downloader wordnet`, or set NLTK_DATA to a folder that holds corpora/wordnet"
    )
