"""Answers from many compressed contexts at once are those of kvpress's pipeline, which reads one at a time."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, pipeline

from evaluation.answering import answer_while_compressing, answers, log_probabilities, stop_tokens
from evaluation.compressors import PrefilledContext
from evaluation.compressors.replay import compress_at_ratios
from evaluation.prefilling import tokenizer_by_name
from evaluation.presses import parse_press
from evaluation.prompts import encode
from evaluation.rows import Row
from evaluation.texts import manual
from tests.conftest import make_tiny

NAMES = ("knorm", "snapkv", "keydiff", "adakv_snapkv", "adakv_knorm", "expected_attention", "moe_router", "think")
ROW = Row(manual()[3000:4500], "What is said? ", "It is said that", "", 12, "task")


@pytest.fixture(scope="module")
def pipe(tiny, tokenizer):
    return pipeline("kv-press-text-generation", model=tiny, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def encoded(tokenizer):
    return encode(tokenizer, ROW)


def theirs(pipe, press, **kwargs):
    output = pipe(ROW.context, question=ROW.question, answer_prefix=ROW.answer_prefix, press=press, **kwargs)
    return output["answer"]


def test_a_batch_answers_as_the_pipeline_does(tiny, tokenizer, pipe, encoded):
    context, question = encoded
    shared = PrefilledContext(tiny, context)
    jobs = [(name, ratio) for name in NAMES for ratio in (0.25, 0.75)]
    contexts = [shared.compress(parse_press(name).make(ratio)) for name, ratio in jobs]
    contexts.append(shared.compress(None))
    for given in (contexts, [context.sharing(contexts[-1]) for context in contexts]):
        found = answers(tiny, given, question, 12)
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in found]
        for (name, ratio), text in zip(jobs, texts, strict=False):
            assert text == theirs(pipe, parse_press(name).make(ratio), max_new_tokens=12), name
        assert texts[-1] == theirs(pipe, None, max_new_tokens=12)
    assert len(set(texts)) > 3, "the presses should not all give the same answer"
    assert tiny.config._attn_implementation == "sdpa"


def test_equal_tensors_are_held_once(tiny, encoded):
    shared = PrefilledContext(tiny, encoded[0])
    full = shared.compress(None)
    masked, removed = (shared.compress(parse_press(name).make(0.5)).sharing(full) for name in ("adakv_knorm", "knorm"))
    assert all(ours[0] is theirs[0] for ours, theirs in zip(masked.layers, full.layers, strict=True))
    assert not any(ours[0] is theirs[0] for ours, theirs in zip(removed.layers, full.layers, strict=True))
    think = shared.compress(parse_press("think").make(0.5)).sharing(full)  # it writes into keys of the same shape
    assert not any(ours[0] is theirs[0] for ours, theirs in zip(think.layers, full.layers, strict=True))


def test_rows_that_stop_leave_the_others_alone(tiny, encoded, monkeypatch):
    context, question = encoded
    shared = PrefilledContext(tiny, context)
    contexts = [shared.compress(parse_press(name).make(0.5)) for name in NAMES]
    whole = answers(tiny, contexts, question, 10)
    stop = whole[0][3]
    monkeypatch.setattr(tiny.generation_config, "eos_token_id", [stop])
    cut = [ids[: ids.index(stop) + 1] if stop in ids else ids for ids in whole]
    assert any(len(ids) < 10 for ids in cut) and any(len(ids) == 10 for ids in cut)
    assert answers(tiny, contexts, question, 10) == cut
    assert stop_tokens(tiny) == {stop}


@pytest.mark.parametrize("name", ["pyramidkv", "per_layer@presses={0: knorm}"])
def test_layers_of_different_lengths_are_read_as_token_by_token(name, tiny, encoded):
    """transformers itself can only continue token by token after such a cache."""
    context, question = encoded
    compressed = PrefilledContext(tiny, context).compress(parse_press(name).make(0.5))
    assert len(set(compressed.lengths)) == 2
    cache = DynamicCache()
    for index, (keys, values) in enumerate(compressed.layers):
        cache.update(keys.clone(), values.clone(), index)
    theirs = []
    for position, token in enumerate(question, start=len(context)):
        with torch.no_grad():
            ids, at = torch.tensor([[token]]), torch.tensor([[position]])
            theirs.append(tiny(input_ids=ids, past_key_values=cache, position_ids=at).logits[0, -1].log_softmax(-1))
    (found,) = log_probabilities(tiny, [compressed], question)
    torch.testing.assert_close(found, torch.stack(theirs), atol=1e-4, rtol=1e-4)


def test_log_probabilities_do_not_depend_on_the_batch(tiny, encoded):
    context, question = encoded
    shared = PrefilledContext(tiny, context)
    contexts = [shared.compress(parse_press(name).make(0.5)) for name in NAMES]
    together = log_probabilities(tiny, contexts, question)
    for compressed, found in zip(contexts, together, strict=True):
        torch.testing.assert_close(found, next(log_probabilities(tiny, [compressed], question)), atol=1e-4, rtol=1e-4)
    full = next(log_probabilities(tiny, [shared.compress(None)], question))
    with torch.no_grad():
        whole = tiny(torch.tensor([[*context, *question]])).logits[0, len(context) :].log_softmax(-1)
    torch.testing.assert_close(full, whole, atol=1e-4, rtol=1e-4)


def test_masked_contexts_are_read_as_kvpress_reads_them(tiny, tokenizer, pipe, encoded):
    context, question = encoded
    with tokenizer_by_name(tiny, tokenizer):
        press = parse_press("kvzip").make(0.5)
        compressed = compress_at_ratios(tiny, context, press, 0.0, (0.5,))
        text = tokenizer.decode(answers(tiny, compressed, question, 8)[0], skip_special_tokens=True)
        assert text == theirs(pipe, parse_press("kvzip").make(0.5), max_new_tokens=8)


def test_presses_that_compress_while_answering(tiny, tokenizer, pipe, encoded):
    context, question = encoded
    spec = parse_press("decoding_knorm@target_size=100@compression_interval=4")
    found = answer_while_compressing(
        tiny, spec.make(None), PrefilledContext(tiny, context).compress(None), question, 10
    )
    text = tokenizer.decode(found, skip_special_tokens=True)
    assert text == theirs(pipe, spec.make(None), max_new_tokens=10)
    assert text != theirs(pipe, None, max_new_tokens=10)


def test_sliding_layers_keep_their_window(tokenizer):
    """A layer with sliding-window attention sees neither distant tokens of the context nor those read long ago."""
    model = make_tiny("gemma3")
    ids = torch.randint(1, 500, (1, 180), generator=torch.Generator().manual_seed(2))
    context, future = ids[0, :100].tolist(), ids[0, 100:].tolist()
    assert model.config.sliding_window == 64
    (found,) = log_probabilities(model, [PrefilledContext(model, context).compress(None)], future)
    with torch.no_grad():
        whole = model(ids).logits[0, 100:].log_softmax(-1)
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model = make_tiny("qwen3").to(dtype)
    ids = torch.randint(1, 500, (1, 120), generator=torch.Generator().manual_seed(2))
    (found,) = log_probabilities(
        model, [PrefilledContext(model, ids[0, :80].tolist()).compress(None)], ids[0, 80:].tolist()
    )
    with torch.no_grad():
        whole = model(ids).logits[0, 80:].float().log_softmax(-1)
    torch.testing.assert_close(found, whole, atol=0.1, rtol=0.1)
