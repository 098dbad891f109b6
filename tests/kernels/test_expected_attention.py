import pytest
import torch

from pikvpress.kernels.expected_attention import expected_attention, query_moments, reference


@pytest.fixture
def short_blocks(monkeypatch):
    monkeypatch.setattr(reference, "NUMBERS", 8 * 7)


@pytest.mark.parametrize("length", [1, 5, 64])
def test_moments_are_those_of_the_queries_of_a_head(length, short_blocks):
    torch.manual_seed(0)
    queries = torch.randn(2, 3, length, 6, dtype=torch.float64) + 5
    mean, covariance = query_moments(queries)
    for batch in range(2):
        for head in range(3):
            rows = queries[batch, head]
            torch.testing.assert_close(mean[batch, head], rows.mean(dim=0))
            expected = torch.cov(rows.T, correction=0)
            torch.testing.assert_close(covariance[batch, head], expected)


def test_moments_are_float32_and_survive_a_mean_far_from_zero():
    torch.manual_seed(0)
    queries = (torch.randn(1, 1, 500, 4) + 1000).half()
    mean, covariance = query_moments(queries)
    assert mean.dtype == covariance.dtype == torch.float32
    torch.testing.assert_close(covariance[0, 0], torch.cov(queries[0, 0].double().T, correction=0).float())


def test_no_query_has_no_moments():
    with pytest.raises(ValueError, match="at least one token"):
        query_moments(torch.zeros(1, 2, 0, 4))


@pytest.mark.parametrize("with_covariance", [True, False])
@pytest.mark.parametrize("group", [1, 3])
def test_attention_is_the_softmax_of_expected_weights(group, with_covariance, short_blocks):
    torch.manual_seed(0)
    heads, length, size = 2, 30, 8
    keys, mean = torch.randn(2, heads, length, size), torch.randn(2, heads * group, size)
    factor = torch.randn(2, heads * group, size, size) / 2
    covariance = factor @ factor.transpose(2, 3) if with_covariance else None
    found = expected_attention(keys, mean, covariance, 0.4)
    for batch in range(2):
        for head in range(heads):
            expected = torch.zeros(length)
            for query_head in range(head * group, (head + 1) * group):
                logits = 0.4 * keys[batch, head] @ mean[batch, query_head]
                if covariance is not None:
                    for number, key in enumerate(keys[batch, head]):
                        logits[number] += 0.08 * torch.dot(key, covariance[batch, query_head] @ key)
                expected += logits.softmax(dim=0) / group
            torch.testing.assert_close(found[batch, head], expected)


def test_the_weight_is_the_mean_over_queries_of_that_distribution():
    torch.manual_seed(0)
    queries = torch.randn(200_000, 2, dtype=torch.float64) @ torch.tensor([[0.7, 0.2], [0.0, 0.5]]).double() + 0.3
    keys = torch.randn(1, 1, 5, 2, dtype=torch.float64)
    mean, covariance = query_moments(queries[None, None])
    weights = (queries @ keys[0, 0].T * 0.7).exp().mean(dim=0)
    found = expected_attention(keys, mean, covariance, 0.7)
    torch.testing.assert_close(found[0, 0], weights / weights.sum(), rtol=0.02, atol=0)


def test_no_keys_receive_nothing():
    found = expected_attention(torch.zeros(1, 2, 0, 4), torch.zeros(1, 4, 4), None, 0.5)
    assert found.shape == (1, 2, 0)


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        ((1, 4, 5), None, "means"),
        ((2, 4, 8), None, "means"),
        ((1, 3, 8), None, "the same number of query heads for each KV head"),
        ((1, 4, 8), (1, 4, 8), "covariances"),
    ],
)
def test_moments_of_other_shapes_are_refused(mean, covariance, message):
    keys = torch.zeros(1, 2, 3, 8)
    with pytest.raises(ValueError, match=message):
        expected_attention(keys, torch.zeros(mean), None if covariance is None else torch.zeros(covariance), 1.0)
