from functools import partial

import pytest
import torch

from pikvpress.kernels.retained_error import by_runs, measure, reference

SCALING = 0.25


def tensors(length=40):
    torch.manual_seed(0)
    queries = 3 * torch.randn(2, 4, 5, 16)
    keys, values = torch.randn(2, 2, length, 16), torch.randn(2, 2, length, 8)
    kept = torch.rand(2, 2, 3, length) > 0.5
    return queries, keys, values, kept


@pytest.mark.parametrize(
    "measure",
    [*(partial(reference.measure, block=block) for block in (7, 40, 100)), by_runs.measure],
    ids=["blocks of 7", "one block", "one block, not full", "runs"],
)
def test_the_error_is_that_of_attention_over_the_kept_keys_alone(measure):
    queries, keys, values, kept = tensors()
    measured = measure(queries, keys, values, kept, SCALING)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, 1.0])
def test_runs_find_what_masks_find(share, dtype):
    queries, keys, values, _ = tensors(length=300)
    queries, keys, values = queries.to(dtype), keys.to(dtype), values.to(dtype)
    kept = torch.rand(2, 2, 4, 300) < share
    for found, expected in zip(
        by_runs.measure(queries, keys, values, kept, SCALING),
        reference.measure(queries, keys, values, kept, SCALING),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_runs_are_taken_where_they_are_long(monkeypatch):
    monkeypatch.setattr(by_runs, "measure", lambda *_: "runs")
    queries, keys, values, kept = tensors(length=128)
    assert measure(queries, keys, values, kept, SCALING) == "runs"
    assert measure(queries, keys[:, :, :127], values[:, :, :127], kept[..., :127], SCALING) != "runs"


def test_no_gradients_are_kept():
    queries, keys, values, kept = tensors(length=128)
    assert not measure(queries.requires_grad_(), keys, values, kept, SCALING).error.requires_grad
