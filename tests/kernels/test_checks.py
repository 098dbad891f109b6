"""Arguments that operations reject."""

from __future__ import annotations

import pytest
import torch

from pikvpress.kernels.checks import check_self_attention

QUERIES, KEYS = torch.zeros(2, 6, 7, 8), torch.zeros(2, 3, 7, 8)


def test_groups_of_queries_of_the_same_tokens_pass():
    check_self_attention(QUERIES, KEYS)
    check_self_attention(QUERIES[:, :0], KEYS[:, :0])


@pytest.mark.parametrize(
    ("queries", "keys", "message"),
    [
        (QUERIES[0], KEYS, r"pass queries \(B, H \* G, T, D\)"),
        (QUERIES[:, :, 1:], KEYS, "pass the queries of all 7 tokens"),
        (QUERIES[:1], KEYS, "same batch and head size"),
        (QUERIES[..., :4], KEYS, "same batch and head size"),
        (QUERIES[:, :5], KEYS, "the same number of query heads for each KV head"),
        (QUERIES[:, :0], KEYS, "the same number of query heads for each KV head"),
        (QUERIES.half(), KEYS, "convert one to the other's type"),
    ],
)
def test_others_are_refused(queries, keys, message):
    with pytest.raises(ValueError, match=message):
        check_self_attention(queries, keys)
