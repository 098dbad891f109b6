import pytest
import torch

from pikvpress.kernels.retained_error import measure

SCALING = 0.25


def tensors(length=40):
    torch.manual_seed(0)
    queries = 3 * torch.randn(2, 4, 5, 16)
    keys, values = torch.randn(2, 2, length, 16), torch.randn(2, 2, length, 8)
    kept = torch.rand(2, 2, 3, length) > 0.5
    return queries, keys, values, kept


@pytest.mark.parametrize("block", [7, 40, 100])
def test_the_error_is_that_of_attention_over_the_kept_keys_alone(block):
    queries, keys, values, kept = tensors()
    measured = measure(queries, keys, values, kept, SCALING, block=block)
    for batch, head, expert in [(0, 0, 0), (1, 1, 2), (0, 1, 1)]:
        rows = queries[batch, 2 * head : 2 * head + 2].flatten(0, 1)
        chosen = kept[batch, head, expert]
        attention = (rows @ keys[batch, head].T * SCALING).softmax(dim=-1)
        full = attention @ values[batch, head]
        part = (rows @ keys[batch, head, chosen].T * SCALING).softmax(dim=-1) @ values[batch, head, chosen]
        error = ((part - full).norm(dim=-1) / full.norm(dim=-1)).mean()
        torch.testing.assert_close(measured.error[batch, head, expert], error, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(measured.missed[batch, head, expert], attention[:, ~chosen].sum(dim=-1).mean())
        torch.testing.assert_close(measured.mass[batch, head], attention.mean(dim=0))


def test_keeping_everything_loses_nothing():
    queries, keys, values, kept = tensors()
    measured = measure(queries, keys, values, torch.ones_like(kept), SCALING)
    assert measured.error.max() < 1e-5
    assert measured.missed.abs().max() < 1e-5


def test_half_precision_is_measured_in_float32():
    queries, keys, values, kept = tensors()
    exact = measure(queries, keys, values, kept, SCALING)
    rough = measure(queries.bfloat16(), keys.bfloat16(), values.bfloat16(), kept, SCALING)
    assert rough.error.dtype == torch.float32
    torch.testing.assert_close(rough.error, exact.error, atol=0.05, rtol=0.1)
