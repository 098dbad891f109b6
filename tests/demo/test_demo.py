import io

import pytest
from kvpress import KVPressTextGenerationPipeline
from rich.console import Console

from pikvpress import MoERouterPress
from pikvpress.demo import DemoQuestion, Result, answers_table, contestants, demo_document, results_table
from pikvpress.demo.facts import FACTS
from pikvpress.demo.table import is_right


def text(table):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_every_fact_stands_once_at_its_depth():
    document, questions = demo_document()
    assert [question.answer for question in questions] == [fact.question.answer for fact in FACTS]
    for fact in FACTS:
        assert document.count(fact.sentence) == 1
        assert document.index(fact.sentence) / len(document) == pytest.approx(fact.depth, abs=0.06)
        others = [other.question.text for other in FACTS if other is not fact]
        assert not any(fact.question.answer in other for other in others)


def test_the_document_is_as_long_as_promised(smollm):
    assert 3500 < len(smollm[1](demo_document()[0]).input_ids) < 4500


def test_the_contestants_are_the_full_cache_three_of_kvpress_and_ours():
    runs = contestants([0.5, 0.75], "eplb")
    assert [(name, ratio) for name, _, ratio in runs] == [("full cache", 0.0)] + [
        (name, ratio)
        for ratio in (0.5, 0.75)
        for name in ("SnapKVPress", "ExpectedAttentionPress", "KeyDiffPress", "MoERouterPress")
    ] + [("PiKVPress", 0.875), ("PiKVPress", 0.9375)]
    assert all(press is None or press.compression_ratio == ratio for _, press, ratio in runs)
    assert runs[-1][1].router_type == "eplb"


def test_answers_are_right_if_they_contain_what_was_asked_for():
    assert is_right("It is 7,316,042.", DemoQuestion("?", "7316042"))
    assert not is_right("It is 731604.", DemoQuestion("?", "7316042"))
    assert not is_right("anything", DemoQuestion("?"))


def test_the_table_counts_right_answers_and_bytes():
    result = Result("MoERouterPress", 0.5, ["a blue one", "none"], 1924, 2**24, 2**23, 3.21)
    shown = text(results_table([result], [DemoQuestion("?", "blue"), DemoQuestion("?", "red")], 3825))
    assert "2 questions about a document of 3,825 tokens" in shown
    assert "MoERouterPress" in shown and "50%" in shown and "✓✗ 1/2" in shown
    assert "16.0 -> 8.0" in shown and "1,924" in shown and "3.2" in shown


def test_questions_without_known_answers_are_not_judged():
    result = Result("full cache", 0.0, ["an [answer]"], 10, 2**20, 2**20, 1.0)
    assert "answers" not in text(results_table([result], [DemoQuestion("why?")], 10))
    shown = text(answers_table([result], [DemoQuestion("why?")]))
    assert "why?" in shown and "an [answer]" in shown


def test_the_pipeline_answers_like_generate_does(smollm):
    """MoERouterPress gives the same answer through the pipeline and around a plain prefill and greedy decoding."""
    import torch
    from transformers import DynamicCache

    model, tokenizer = smollm
    context, question = demo_document()[0][:3000], "\n\nWhat is the magic number of the town of Sallow Haven?"
    answer = KVPressTextGenerationPipeline(model=model, tokenizer=tokenizer)(
        context, question=question, press=MoERouterPress(0.3), max_new_tokens=20
    )["answer"]
    turn = tokenizer.apply_chat_template(
        [{"role": "user", "content": context + "<cut>"}], add_generation_prompt=True, tokenize=False
    )
    before, after = turn.split("<cut>")
    ids = [tokenizer.encode(part, return_tensors="pt", add_special_tokens=False) for part in (before, question + after)]
    cache = DynamicCache()
    with torch.no_grad():
        with MoERouterPress(0.3)(model):
            model.model(ids[0], past_key_values=cache)
        position, tokens, written = ids[0].shape[1], ids[1], []
        for _ in range(20):
            positions = torch.arange(position, position + tokens.shape[1])[None]
            logits = model(tokens, past_key_values=cache, position_ids=positions).logits
            position += tokens.shape[1]
            tokens = logits[:, -1:].argmax(dim=-1)
            written.append(tokens.item())
            if written[-1] == tokenizer.eos_token_id:
                break
    assert answer == tokenizer.decode(written, skip_special_tokens=True)
    assert "7316042" in answer
