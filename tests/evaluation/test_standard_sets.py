"""The standard sets: what their loaders read, and figures that were worked out by hand."""

from __future__ import annotations

import json
import math
import warnings
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evaluation.benchmarks.aime25 import AIME25
from evaluation.benchmarks.benchmark import Request
from evaluation.benchmarks.extra import extra
from evaluation.benchmarks.infinitebench import InfiniteBench
from evaluation.benchmarks.longbench import LongBench
from evaluation.benchmarks.longbench_e import LongBenchE
from evaluation.benchmarks.longbench_v2 import LongBenchV2
from evaluation.benchmarks.loogle import LooGLE, overlap
from evaluation.benchmarks.math500 import Math500
from evaluation.benchmarks.needle_in_haystack import DEPTHS, NEEDLE, NeedleInHaystack
from evaluation.benchmarks.zero_scrolls import ZeroScrolls
from evaluation.rows import Row

WORDS = [f"w{i}" for i in range(3000)]
PLAIN = {"all_classes": None}


def make_tokenizer(vocabulary):
    words = ["<unk>", *dict.fromkeys(vocabulary)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.fixture(scope="module")
def tokenizer():
    text = f"{NEEDLE} This is a very long story book: <book> </book>. Look here now Answer:"
    return make_tokenizer([*WORDS, *text.split()])


def record(**columns):
    return {"context": "A text.", "question": "Q?", "answer_prefix": "A:", "max_new_tokens": 8, **columns}


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records)), path)


def request(tokenizer, data, length=None, tasks=None):
    return Request(tokenizer, length, samples=1, seed=0, data=data, tasks=tasks)


def row(task, answer, **extras):
    return Row("context", "question", "", answer, 8, task, extras)


def check(benchmark, cases, expected):
    """Compare metrics, and the mean of the main measure where the metric is one number."""
    rows, predictions = [case[0] for case in cases], [case[1] for case in cases]
    value = benchmark.metrics(rows, predictions)
    assert value == pytest.approx(expected, abs=1e-9)
    scores = [benchmark.score(row, prediction) for row, prediction in cases]
    assert all(set(score) == {measure.name for measure in benchmark.measures} for score in scores)
    return sum(score[benchmark.measures[0].name] for score in scores) / len(scores)


LOADS = [
    (LongBench, "trec/test.parquet", record(answers=["x"], all_classes=["x", "y"], task="trec"), ("trec",)),
    (LongBenchE, "qasper_e/test.parquet", record(answers=["x"], all_classes=None, length=3, task="-"), ("qasper",)),
    (LongBenchV2, "0shot/test.parquet", record(answer="A", difficulty="easy", length="short"), None),
    (InfiniteBench, "passkey/test.parquet", record(answer=["71432"], task="passkey"), ("passkey",)),
    (LooGLE, "longdep_qa/test.parquet", record(answer="x", task="longdep_qa"), ("longdep_qa",)),
    (ZeroScrolls, "data/test.parquet", record(answer="", task="qasper"), ("qasper",)),
    (AIME25, "data/test.parquet", record(answer=70), None),
    (Math500, "test.parquet", record(answer="70"), None),
]


@pytest.mark.parametrize(("benchmark", "path", "columns", "tasks"), LOADS, ids=lambda value: getattr(value, "name", ""))
def test_loads_from_a_folder(tokenizer, tmp_path, benchmark, path, columns, tasks):
    write(tmp_path / path, columns, columns)
    rows = benchmark().rows(request(tokenizer, tmp_path, tasks=tasks))
    assert len(rows) == 2
    assert rows[0].answer == columns.get("answer", columns.get("answers"))
    assert (rows[0].context, rows[0].max_new_tokens) == ("A text.", 8)
    if tasks:
        assert rows[0].task == tasks[0]


@pytest.mark.parametrize(("benchmark", "path", "columns", "tasks"), LOADS, ids=lambda value: getattr(value, "name", ""))
def test_says_what_is_wrong_with_the_data(tokenizer, tmp_path, benchmark, path, columns, tasks):
    with pytest.raises(FileNotFoundError, match="hf download"):
        benchmark().rows(request(tokenizer, tmp_path, tasks=tasks))
    with pytest.raises(ValueError, match="task 'no such task': known are"):
        benchmark().rows(request(tokenizer, tmp_path, tasks=("no such task",)))
    answer = "answers" if "answers" in columns else "answer"
    write(tmp_path / path, {**columns, answer: 1.5})
    with pytest.raises(TypeError, match=f"test.parquet, record 1: column '{answer}' must hold .* not float"):
        benchmark().rows(request(tokenizer, tmp_path, tasks=tasks))


def test_longbench_takes_the_english_tasks_unless_told(tokenizer, tmp_path):
    write(tmp_path / "all.parquet", *[record(answers=["x"], all_classes=["x"], task=t) for t in ("lsht", "qasper")])
    (row,) = LongBench().rows(request(tokenizer, tmp_path, tasks=("lsht",)))
    assert row.task == "lsht"
    with pytest.raises(FileNotFoundError, match="'narrativeqa'"):
        LongBench().rows(request(tokenizer, tmp_path))
    write(tmp_path / "trec.parquet", record(answers=["x"], all_classes=None))
    with pytest.raises(TypeError, match="'all_classes' must hold a list of text, not nothing"):
        LongBench().rows(request(tokenizer, tmp_path, tasks=("trec",)))


def test_longbench_overlap():
    # "cat sat" against "cat sat down": precision 1, recall 2/3, F1 0.8; the best of the answers counts.
    cases = [(row("qasper", ["dog", "The cat sat down."], **PLAIN), "A cat sat!"), (row("qasper", ["x"], **PLAIN), "")]
    assert check(LongBench(), cases, 40.0) == pytest.approx(40)


def test_longbench_first_line_only():
    cases = [(row("triviaqa", ["Paris"], **PLAIN), "\n Paris\nQuestion: next"), (row("triviaqa", ["x"], **PLAIN), "y")]
    check(LongBench(), cases, 50.0)


def test_longbench_classification():
    classes = ["An", "Anim", "Animal", "Food"]
    # Of "An", "Anim" (both parts of "Animal"), the scorer drops "An" and passes over "Anim".
    cases = [(row("trec", ["Animal"], all_classes=classes), "Animal"), (row("trec", ["Food"], all_classes=classes), "")]
    check(LongBench(), cases, 25.0)
    check(LongBench(), [(row("trec", ["Food"], all_classes=classes), "Food or An")], 50.0)


def test_longbench_numbers_and_code():
    check(LongBench(), [(row("passage_count", ["3"], **PLAIN), "3 of 3, or 4?")], 66.67)
    check(LongBench(), [(row("passage_retrieval_en", ["Paragraph 5"], **PLAIN), "Paragraph 5")], 100.0)
    check(LongBench(), [(row("passage_retrieval_zh", ["段落5"], **PLAIN), "段落5或6")], 50.0)
    # "abcd" against "abce": 2 * 3 shared characters of 8.
    check(LongBench(), [(row("lcc", ["abce"], **PLAIN), "```\n# note\nabcd\nrest")], 75.0)
    with pytest.raises(ValueError, match="must name a paragraph"):
        LongBench().score(row("passage_retrieval_en", ["five"], **PLAIN), "5")


def test_longbench_rouge_and_chinese():
    # LCS of "a b c d" and "a c": precision 2/2, recall 2/4, F 2/3.
    check(LongBench(), [(row("gov_report", ["a b c d"], **PLAIN), "a c")], 66.67)
    check(LongBench(), [(row("gov_report", ["a b"], **PLAIN), "")], 0.0)
    check(LongBench(), [(row("multifieldqa_zh", ["北京"], **PLAIN), "“北京”。")], 100.0)
    check(LongBench(), [(row("vcsum", ["北京"], **PLAIN), "北京")], 100.0)


def test_several_tasks_are_named():
    rows = [row("qasper", ["x"], **PLAIN), row("lcc", ["x"], **PLAIN)]
    assert LongBench().metrics(rows, ["x", "y"]) == {"qasper": 100.0, "lcc": 0.0}


def test_longbench_e_has_buckets_and_keeps_leading_spaces():
    rows = [row("lcc", [" x"], length=length, **PLAIN) for length in (3999, 4000, 7999)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buckets = LongBenchE().metrics(rows, ["\n x", " x", "x"])
    # "x" against " x": 2 * 1 of 3 characters, 67 whole percent.
    assert (buckets["0-4k"], buckets["4-8k"]) == (100.0, 83.5)
    assert math.isnan(buckets["8k+"])
    assert LongBenchE().score(rows[0], "x") == {"score": 67.0}


def test_longbench_v2():
    kinds = [("easy", "short"), ("hard", "short"), ("hard", "long")]
    rows = [row("0shot", "B", difficulty=difficulty, length=length) for difficulty, length in kinds]
    cases = list(zip(rows, ["The correct answer is (B).", "**The correct answer is B**", "B"], strict=True))
    expected = {"average": 2 / 3, "easy": 1.0, "hard": 0.5, "long": 0.0, "short": 1.0}
    assert check(LongBenchV2(), cases, expected) == pytest.approx(200 / 3)
    assert list(LongBenchV2().metrics(rows, ["", "", ""])) == list(expected)


@pytest.mark.parametrize(
    ("task", "answer", "right", "wrong"),
    [
        ("passkey", ["71432"], "it is 71432.", "1 71432"),
        ("number_string", ["220"], "220", ""),
        ("kv_retrieval", ["ab-12"], '"ab-12".', "ab-123"),
        ("longdialogue_qa_eng", ["ACE", "BO"], "It is bo", "C"),
        ("longbook_choice_eng", ["B"], "The answer is B or so", "A. C is right\nB"),
        ("longbook_choice_eng", ["B"], "answer is: Bx", "answer is: Cx B_"),
        ("longbook_choice_eng", ["B"], "Bx", ""),
        ("code_run", [-7], "value: -7", "7"),
        ("code_run", [7], "it is `7`.", "7 indeed"),
        ("code_debug", ["parse", "C"], "C", "A"),
        ("code_debug", ["parse", "C"], "the answer is: parse()", "is: other parse"),
        ("code_debug", ["parse", "C"], "`parse`"[1:], "answer:"),
        ("math_find", [12], "12 or 13", "1.2"),
        ("math_find", [1.5], "about 1.5", "none"),
    ],
)
def test_infinitebench_right_and_wrong(task, answer, right, wrong):
    cases = [(row(task, answer), right), (row(task, answer), wrong)]
    assert InfiniteBench().score(*cases[0]) == {"score": 100.0}
    assert check(InfiniteBench(), cases, 0.5) == pytest.approx(50)


def test_infinitebench_shares():
    check(InfiniteBench(), [(row("math_calc", [1, 4, 8, 9]), "[1, 04, 7, 9]")], 0.5)
    check(InfiniteBench(), [(row("longbook_qa_eng", ["x", "cat sat down"]), "the cat sat")], 0.8)
    # Shared characters of "北京大" and "北大": precision 2/2, recall 2/3.
    check(InfiniteBench(), [(row("longbook_qa_chn", ["北京大"]), "北 大。")], 0.8)
    # Line by line the longest common parts are "a b" and nothing: recall 2/4, precision 2/3.
    check(InfiniteBench(), [(row("longbook_sum_eng", ["a b\nc d"]), "a b\ne")], 4 / 7)


def test_infinitebench_reads_text_answers_as_the_metric_needs_them(tokenizer, tmp_path):
    question = "Which?\n\nOptions:\nA. foo\nB. bar\nC. baz\nD. qux"
    for task, answer in (
        ("code_debug", ["B"]),
        ("math_find", ["1.5"]),
        ("math_calc", ["1", "-2"]),
        ("code_run", ["7"]),
    ):
        write(tmp_path / task / "test.parquet", {**record(answer=answer), "question": question})
    tasks = ("code_run", "code_debug", "math_find", "math_calc")
    rows = InfiniteBench().rows(request(tokenizer, tmp_path, tasks=tasks))
    assert [row.answer for row in rows] == [[7], ["bar", "B"], [1.5], [1, -2]]
    write(tmp_path / "code_run" / "test.parquet", record(answer=["seven"]))
    with pytest.raises(ValueError, match="answers of task 'code_run' must be numbers"):
        InfiniteBench().rows(request(tokenizer, tmp_path, tasks=("code_run",)))
    write(tmp_path / "code_debug" / "test.parquet", record(answer=["B"]))
    with pytest.raises(ValueError, match="does not list the option 'B'"):
        InfiniteBench().rows(request(tokenizer, tmp_path, tasks=("code_debug",)))


def test_loogle_clozes():
    answer = '{"<mask-0>": "Ann Lee", "<mask-1>": "Bob"}'
    predictions = ["{'<mask-0>': 'Ann', '<mask-1>': 'Bob'}", "no dictionary", "__import__('os').abort()"]
    rows = [row("shortdep_cloze", answer)] * 3
    # Exactly right: 1 of 2 masks, and 0 of 1 for each answer that is no dictionary; in part: 2 of 2, and 0 of 2 twice.
    expected = {"shortdep_cloze": {"exact_match": 0.25, "partial_match": 0.3333}}
    assert LooGLE().metrics(rows, predictions) == expected
    assert [LooGLE().score(*case)["score"] for case in zip(rows, predictions, strict=True)] == [50.0, 0.0, 0.0]
    assert LooGLE().metrics(rows[:1], ["{'<mask-0>': 7}"])["shortdep_cloze"] == {"exact_match": 0, "partial_match": 0}
    with pytest.raises(ValueError, match="must be a dictionary of masks"):
        LooGLE().score(row("shortdep_cloze", "Bob"), "Bob")


def test_loogle_texts(monkeypatch):
    monkeypatch.setattr(overlap, "load_wordnet", lambda: SimpleNamespace(synsets=lambda word: []))
    recall = torch.tensor([0.5, 0.7])
    score = SimpleNamespace(score=lambda candidates, references, lang: (None, recall, None))
    monkeypatch.setattr(overlap, "extra", lambda name: score if name == "bert_score" else extra(name))
    rows = [row("longdep_qa", "a b c d e"), row("longdep_qa", "x y")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (scores,) = LooGLE().metrics(rows, ["a b c d", ""]).values()
    brevity = math.exp(1 - 5 / 4)
    assert list(scores) == ["bleu1", "bleu4", "rouge-1", "rouge-2", "rouge-l", "meteor", "bert"]
    assert scores["bleu1"] == scores["bleu4"] == pytest.approx(brevity / 2)
    assert (scores["rouge-1"], scores["rouge-2"], scores["rouge-l"]) == pytest.approx((4 / 5 / 2, 3 / 4 / 2, 4 / 5 / 2))
    # Precision 1, recall 4/5, weighed 9 to 1; how many chunks there are is the hashing's, see `meteor`.
    penalties = [0.5 * (chunks / 4) ** 3 for chunks in (1, 2, 3, 4)]
    assert any(scores["meteor"] == pytest.approx(0.8 / 0.98 * (1 - penalty) / 2) for penalty in penalties)
    assert scores["bert"] == pytest.approx(0.6)
    assert LooGLE().score(rows[0], "a b c d") == {"score": pytest.approx(80)}


def test_loogle_says_how_to_get_models(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no network")

    def missing():
        raise LookupError

    monkeypatch.setattr(overlap, "extra", lambda name: SimpleNamespace(score=fail))
    with pytest.raises(FileNotFoundError, match="hf download FacebookAI/roberta-large"):
        overlap.bert(["a"], ["b"])
    downloads = []
    nltk = SimpleNamespace(
        wordnet=SimpleNamespace(ensure_loaded=missing), download=lambda *args, **kwargs: downloads.append(args)
    )
    monkeypatch.setattr(overlap, "extra", lambda name: nltk)
    with pytest.raises(FileNotFoundError, match=r"nltk\.downloader wordnet"):
        overlap.load_wordnet()
    assert downloads == [("wordnet",)]


def test_missing_libraries_are_named():
    with pytest.raises(ImportError, match=r"library 'no_such_library' .* pip install 'pikvpress\[evaluation\]'"):
        extra("no_such_library.part")


def test_zero_scrolls_has_no_figures():
    assert ZeroScrolls().metrics([row("qasper", "")], ["x"]) == {}
    assert ZeroScrolls().score(row("qasper", ""), "x") == {}
    assert ZeroScrolls().measures == ()


def test_boxed_answers():
    predictions = ["\\boxed{70}", "\\boxed{1} no, \\boxed{70}", "70", "seventy", "boxed{70"]
    aime, math500 = ([row(name, answer)] * 5 for name, answer in (("aime25", 70), ("math500", "70")))
    expected = {"correct": 4, "answered": 3, "accuracy": 0.8, "total": 5}  # the last box, or the bare number
    assert check(AIME25(), list(zip(aime, predictions, strict=True)), expected) == pytest.approx(80)
    expected = {"correct": 2, "answered": 3, "accuracy": 0.4, "total": 5}  # the first box
    assert check(Math500(), list(zip(math500, predictions, strict=True)), expected) == pytest.approx(40)


@pytest.fixture
def haystack(tmp_path):
    needle = "The best thing to do in San Francisco is eat a sandwich"
    values = record(context=" ".join(WORDS), needle=needle, question="Look here now")
    write(tmp_path / "data" / "test.parquet", values)
    return tmp_path


def test_needle_is_at_every_depth(tokenizer, haystack):
    rows = NeedleInHaystack().rows(request(tokenizer, haystack, length=411))
    needle = rows[0].answer
    room = 411 - len(needle.split()) - 150
    assert [row.extras for row in rows] == [{"needle": needle, "needle_depth": depth} for depth in DEPTHS]
    for row in rows:
        before, after = (part.split() for part in row.context.split(needle))
        hay = before[8:] + after[:-1]  # less the words of the wrapper
        assert hay == WORDS[:room]
        assert len(before[8:]) == room * row.extras["needle_depth"] // 100
        assert (row.question, row.answer_prefix, row.max_new_tokens) == ("Look here now", "A:", 8)


def test_needle_leaves_room_for_long_templates(tokenizer, haystack):
    write(haystack / "data" / "test.parquet", record(context=" ".join(WORDS), needle=NEEDLE, max_new_tokens=500))
    rows = NeedleInHaystack().rows(request(tokenizer, haystack, length=1000))
    tokens = [len(tokenizer(row.context + row.question)["input_ids"]) + row.max_new_tokens for row in rows]
    assert max(tokens) <= 1000


def test_needle_takes_the_essays_by_default(monkeypatch, tokenizer):
    monkeypatch.setattr("evaluation.benchmarks.needle_in_haystack.essays", lambda: " ".join(WORDS))
    rows = NeedleInHaystack().rows(request(tokenizer, None, length=400))
    assert len(rows) == 11
    assert all(NEEDLE in row.context and row.answer == NEEDLE for row in rows)


def test_needle_says_which_lengths_there_are(tokenizer, haystack):
    benchmark = NeedleInHaystack()
    with pytest.raises(ValueError, match="needs a length"):
        benchmark.rows(request(tokenizer, haystack))
    with pytest.raises(ValueError, match=r"162 tokens is too short .* more than 162"):
        benchmark.rows(request(tokenizer, haystack, length=162))
    assert len(benchmark.rows(request(tokenizer, haystack, length=3162))) == 11
    with pytest.raises(ValueError, match="has 3000 tokens, 3001 are needed: give a length of at most 3162"):
        benchmark.rows(request(tokenizer, haystack, length=3163))
    with pytest.raises(FileNotFoundError, match="hf download alessiodevoto/paul_graham_essays"):
        benchmark.rows(request(tokenizer, haystack / "none", length=400))


def test_needle_rouge():
    cases = [(row("needle_in_haystack", "a b c d", needle="a b c d"), text) for text in ("a b x", "")]
    rows, predictions = zip(*cases, strict=True)
    found, nothing = NeedleInHaystack().metrics(rows, predictions)
    # The needle is the hypothesis: recall is of the prediction's words, precision of the needle's.
    assert found["rouge-l"] == pytest.approx({"r": 2 / 3, "p": 2 / 4, "f": 4 / 7})
    assert found["rouge-2"] == pytest.approx({"r": 1 / 2, "p": 1 / 3, "f": 2 / 5})
    assert nothing == {name: {"r": 0.0, "p": 0.0, "f": 0.0} for name in ("rouge-1", "rouge-2", "rouge-l")}
    assert NeedleInHaystack().score(*cases[0])["rouge-l"] == pytest.approx(400 / 7)
    json.dumps([found, nothing])
