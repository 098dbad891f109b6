import pytest
import torch

from pikvpress.kernels.column_sums import causal_log_sums, column_sums
from pikvpress.kernels.column_sums.reference import ROWS
from pikvpress.kernels.window_scores import received_attention


def inputs_of(batch=2, heads=2, group=3, tokens=13, head_dim=8):
    torch.manual_seed(0)
    return torch.randn(batch, heads * group, tokens, head_dim), torch.randn(batch, heads, tokens, head_dim)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("known", [False, True])
def test_a_key_receives_what_its_own_query_and_all_later_ones_pay(group, known):
    queries, keys = inputs_of(group=group)
    log_sums = causal_log_sums(queries, keys, 0.7) if known else None
    found = column_sums(queries, keys, 0.7, log_sums)
    expected = torch.zeros(2, 2, 13)
    for batch in range(2):
        for head in range(2 * group):
            for row in range(13):
                weights = (keys[batch, head // group, : row + 1] @ queries[batch, head, row] * 0.7).exp()
                expected[batch, head // group, : row + 1] += weights / weights.sum() / group
    torch.testing.assert_close(found, expected)


def test_log_sums_are_those_of_the_keys_up_to_the_query():
    queries, keys = inputs_of()
    found = causal_log_sums(queries, keys, 0.7)
    for head in range(6):
        for row in range(13):
            logits = keys[1, head // 3, : row + 1] @ queries[1, head, row] * 0.7
            torch.testing.assert_close(found[1, head, row], logits.exp().sum().log())


def test_contexts_longer_than_a_block_are_a_window_as_long_as_the_context():
    queries, keys = inputs_of(1, 1, 2, 2 * ROWS + 5, 16)
    torch.testing.assert_close(column_sums(queries, keys, 0.25), received_attention(queries, keys, 0.25))


def test_a_head_pays_out_one_a_query():
    queries, keys = inputs_of(tokens=50)
    torch.testing.assert_close(column_sums(queries, keys, 1.0).sum(dim=-1), torch.full((2, 2), 50.0))


@pytest.mark.parametrize(
    ("queries", "keys", "message"),
    [
        ((1, 4, 3, 8), (1, 2, 5, 8), "pass the queries of all 5 tokens"),
        ((1, 3, 5, 8), (1, 2, 5, 8), "the same number of query heads for each KV head"),
        ((1, 4, 5, 8), (2, 2, 5, 8), "same batch and head size"),
        ((4, 5, 8), (2, 5, 8), r"pass queries \(B, H \* G, T, D\)"),
    ],
)
@pytest.mark.parametrize("function", [column_sums, causal_log_sums])
def test_what_does_not_fit_is_refused(function, queries, keys, message):
    with pytest.raises(ValueError, match=message):
        function(torch.zeros(queries), torch.zeros(keys), 1.0)


def test_types_and_log_sums_that_do_not_fit_are_refused():
    queries, keys = inputs_of()
    with pytest.raises(ValueError, match="convert one to the other's type"):
        column_sums(queries, keys.half(), 1.0)
    with pytest.raises(ValueError, match="pass one for each query"):
        column_sums(queries, keys, 1.0, torch.zeros(2, 2, 13))
