import pytest
import torch

from pikvpress import MoERouterPress, measure_memory_usage, memory
from tests.vision import context, make_vision

ROW = 2 * 2 * 2 * 16 * 4  # bytes per token: layers, keys and values, KV heads, head size, float32


def test_the_cache_is_counted_exactly(llama, ids):
    assert measure_memory_usage(llama, ids).cache == 300 * ROW
    assert measure_memory_usage(llama, {"input_ids": ids}, MoERouterPress(0.5)).cache == 150 * ROW


def test_images_are_read_and_their_tokens_counted():
    model, inputs = make_vision("qwen2_5_vl"), context("qwen2_5_vl")
    pixels = inputs["pixel_values"].clone()
    full, half = (measure_memory_usage(model, inputs, press) for press in (None, MoERouterPress(0.5, gates=None)))
    assert (full.cache, half.cache) == (124 * ROW, 62 * ROW)
    text = measure_memory_usage(model, inputs["input_ids"])
    assert full.prefill_peak > text.prefill_peak  # the tower is at work, too
    assert torch.equal(inputs["pixel_values"], pixels)


def test_the_press_may_be_around_the_measurement(llama, ids):
    with MoERouterPress(0.75)(llama):
        assert measure_memory_usage(llama, ids).cache == 75 * ROW


def test_compression_lowers_the_peak_of_decoding(llama, ids):
    full, half = measure_memory_usage(llama, ids), measure_memory_usage(llama, ids, MoERouterPress(0.5))
    assert full.decode_peak > full.cache
    assert full.decode_peak - half.decode_peak >= 150 * ROW
    assert full.prefill_peak >= full.cache


def test_peaks_see_temporaries_and_leave_weights_out(llama, ids):
    weights = sum(parameter.nbytes for parameter in llama.parameters())
    long = torch.arange(1, 401)[None]
    usage = measure_memory_usage(llama, long)
    scores = 400 * 96 * 4  # the widest temporary of the feed-forward layer
    assert 400 * ROW + scores < usage.prefill_peak < weights + 400 * ROW + 50 * scores


@pytest.mark.parametrize(
    ("inputs", "tokens", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.long), 1, "not empty"),
        (torch.zeros(5, dtype=torch.long), 1, "shape"),
        (torch.ones(1, 5, dtype=torch.long), 0, "max_new_tokens must be at least 1"),
    ],
)
def test_bad_input(llama, inputs, tokens, message):
    with pytest.raises(ValueError, match=message):
        measure_memory_usage(llama, inputs, max_new_tokens=tokens)


def test_a_gpu_is_asked_about_itself_and_not_about_the_current_one(monkeypatch):
    asked = []
    answers = {"synchronize": None, "memory_allocated": 100, "reset_peak_memory_stats": None}
    for name, answer in (answers | {"max_memory_allocated": 350}).items():
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: asked.append(device) or answer)
    assert memory._cuda_peak([torch.device("cuda:1")], lambda: None) == 250
    assert set(asked) == {torch.device("cuda:1")} and len(asked) == 5
