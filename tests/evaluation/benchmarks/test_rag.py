"""Questions about documents that a retriever finds: the corpus, its documents, rows, and how answers are judged."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import pytest

from evaluation.benchmarks.benchmark import Request
from evaluation.benchmarks.rag import Rag, RagFidelity, benchmark, retrieval
from evaluation.benchmarks.rag.benchmark import first_sentence
from evaluation.benchmarks.rag.corpus import WORDS, corpus, documents
from evaluation.compressors.joining import documents_of
from evaluation.journal import Journal
from evaluation.processes import Place
from evaluation.prompts import total_tokens
from evaluation.rows import Row
from evaluation.runner import run
from evaluation.study import make_study
from evaluation.units import make_units
from tests.evaluation.tiny_tokenizer import make_tokenizer

TOKENIZER = make_tokenizer()


def by_words(texts: Sequence[str], question: str, count: int) -> list[int]:
    """Rank documents by the words that they share with a question, as a retriever does."""
    asked = set(question.lower().split())
    return sorted(range(len(texts)), key=lambda one: -len(asked & set(texts[one].lower().split())))[:count]


@pytest.fixture(autouse=True)
def retriever(monkeypatch):
    monkeypatch.setattr(retrieval, "ranked", by_words)


def make(length: int | None = 700, samples: int = 2, seed: int = 0, **others):
    return Rag().rows(Request(TOKENIZER, length, samples, seed, **others))


def test_documents_are_whole_lines_of_few_words_and_lose_nothing():
    text = "\n".join(f"line {number} " + "word " * (number % 40) for number in range(100)) + "\n" + "long " * 300
    found = list(documents([text, "", "another text"]))
    assert " ".join(found).split() == [*text.split(), "another", "text"]
    assert max(len(document.split()) for document in found) <= WORDS
    assert found[-1] == "another text" and found[0].startswith("line 0")


def test_rows_hold_as_many_documents_as_fit_and_say_where_they_begin():
    rows = make()
    assert [row.task for row in rows] == ["manual"] * 2 + ["scripture"] * 2
    for row in rows:
        texts = corpus(row.task, None)
        assert total_tokens(TOKENIZER, row) <= 700
        starts = row.extras["starts"]
        pieces = [row.context[a:b].removesuffix("\n\n") for a, b in zip(starts, [*starts[1:], None], strict=True)]
        assert len(pieces) >= 2 and all(piece in texts for piece in pieces)
        assert row.extras["found"]  # sentences are mostly unlike all others
        sentence = f"{row.answer_prefix} {row.answer}"
        assert any(sentence in " ".join(piece.split()) for piece in pieces)


def test_rows_do_not_depend_on_their_number_and_the_study_along_answers_has_the_same():
    assert make(samples=1, tasks=("manual",)) == make(samples=3, tasks=("manual",))[:1]
    assert RagFidelity().rows(Request(TOKENIZER, 700, 1, 0)) == make(samples=1)
    assert make(seed=1) != make(seed=2)


def test_texts_of_ones_own(tmp_path):
    stones = (f"The {n}th stone of the old wall bears the mark of mason {n}, who cut it in a day." for n in range(40))
    ships = (f"A ship of the {n}th fleet carried barrels of salt over the sea to northern towns." for n in range(40))
    (tmp_path / "one.txt").write_text("\n".join(stones))
    (tmp_path / "two.md").write_text("\n".join(ships))
    rows = make(samples=3, data=tmp_path)
    assert {row.task for row in rows} == {"texts"} and all(row.extras["found"] for row in rows)
    with pytest.raises(FileNotFoundError, match="holds no texts"):
        make(data=tmp_path / "nothing")


def test_impossible_lengths_are_refused():
    with pytest.raises(ValueError, match="length 100 is too short for two documents"):
        make(length=100)
    with pytest.raises(ValueError, match="specify one"):
        make(length=None)


def test_answers_are_judged_up_to_the_end_of_the_sentence():
    row = Row("context", "", "And God said", "Let there be light: and there was light.", 20, "scripture")
    right = Rag().score(row, " Let there be\n light: and there was light. And God saw")
    assert right == {"f1": 100.0, "exact": 100.0}
    half = Rag().score(row, "Let there be something else")
    assert 0 < half["f1"] < 100 and half["exact"] == 0
    assert first_sentence("no end") == "no end"
    assert Rag().metrics([row], ["Let there be light: and there was light."]) == {
        "scripture": {"f1": 100.0, "exact": 100.0}
    }


def test_bm25_is_asked_for_if_it_is_not_installed(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ValueError, match="run `pip install bm25s`"):
        benchmark.retrieval.ranked(("a text", "another"), "text", 2)


def test_bm25_finds_the_document_with_the_words(monkeypatch):
    pytest.importorskip("bm25s")
    monkeypatch.undo()
    texts = ("The cat sat on the mat.", "A river runs to the sea.", "Dogs bark at night.")
    assert retrieval.ranked(texts, "where does the river run", 2)[0] == 1


def test_a_small_study_runs(tiny, tokenizer, tmp_path):
    names = ["joined@seam=0", "joined@seam=10000", "joined_pikv@experts=[keydiff]@gates=null@budgets=equal"]
    settings = {"benchmarks": ["rag", "rag_fidelity"], "lengths": [600], "samples": 1, "tasks": ["manual"]}
    study = make_study(settings | {"presses": names, "ratios": [0.75], "output": str(tmp_path)})
    units = make_units(study, tokenizer, 1024)
    tmp_path.mkdir(exist_ok=True)
    journal = Journal(tmp_path, 0)
    run(study, tiny, tokenizer, units, journal, Place(0, 1, 0))
    records = {(record["benchmark"], record["press"]): record for record in journal.read()}
    whole, apart, everything, packed = ("no_press", *names)
    tokens = len(units[0].context)
    head, pieces = documents_of(tokenizer, units[0].samples[0])
    read = {press: records["rag", press]["measures"]["tokens_read"] for press in (whole, *names)}
    assert read[whole] == tokens and read[apart] == 0
    assert read[everything] == tokens - len(pieces[0])
    assert 0 < read[packed] <= head + 2 * 8 * (len(pieces) - 1)
    loss = {press: records["rag_fidelity", press]["measures"]["kl"] for press in (whole, *names)}
    assert loss[whole] == pytest.approx(0, abs=1e-6) and loss[everything] == pytest.approx(0, abs=1e-4)
    assert loss[apart] > 0 and json.dumps(loss)
    assert records["rag", packed]["bytes_held"] < 0.5 * records["rag", whole]["bytes_held"]
