import pytest
import torch

from pikvpress import MoERouterPress, measure_memory_usage

ROW = 2 * 2 * 2 * 16 * 4  # bytes per token: layers, keys and values, KV heads, head size, float32


def test_the_cache_is_counted_exactly(llama, ids):
    assert measure_memory_usage(llama, ids).cache == 300 * ROW
    assert measure_memory_usage(llama, {"input_ids": ids}, MoERouterPress(0.5)).cache == 150 * ROW


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
