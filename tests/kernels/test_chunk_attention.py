import pytest
import torch
from kvpress import NonCausalAttnPress

from pikvpress.kernels.chunk_attention import chunk_attention


def inputs_of(tokens, batch=2, heads=2, group=3, head_dim=8):
    torch.manual_seed(0)
    return torch.randn(batch, heads * group, tokens, head_dim), torch.randn(batch, heads, tokens, head_dim)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize(("tokens", "chunk"), [(12, 4), (13, 4), (3, 5), (5, 5), (4, 1)])
def test_a_key_receives_what_its_chunk_pays_and_a_share_of_each_missing_query(tokens, chunk, group):
    queries, keys = inputs_of(tokens, group=group)
    found = chunk_attention(queries, keys, chunk)
    expected = torch.zeros(2, 2, tokens)
    for batch in range(2):
        for head in range(2 * group):
            for start in range(0, tokens, chunk):
                end = min(start + chunk, tokens)
                missing = chunk - (end - start)
                for row in range(start, end):
                    weights = (keys[batch, head // group, start:end] @ queries[batch, head, row]).exp()
                    expected[batch, head // group, start:end] += weights / (weights.sum() + missing) / group
                expected[batch, head // group, start:end] += missing / chunk / group
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("tokens", [256, 300, 100])
def test_kvpress_finds_the_same(tokens):
    queries, keys = inputs_of(tokens)
    theirs = NonCausalAttnPress.non_causal_chunked_attn(queries, keys.repeat_interleave(3, dim=1), 128)
    torch.testing.assert_close(chunk_attention(queries, keys, 128), theirs.unflatten(1, (2, 3)).mean(dim=2))


def test_full_chunks_pay_out_one_a_query():
    queries, keys = inputs_of(12)
    sums = chunk_attention(queries, keys, 4).unflatten(2, (3, 4)).sum(dim=-1)
    torch.testing.assert_close(sums, torch.full((2, 2, 3), 4.0))


def test_chunks_without_tokens_and_queries_of_some_tokens_are_refused():
    queries, keys = inputs_of(12)
    with pytest.raises(ValueError, match="pass at least 1 token"):
        chunk_attention(queries, keys, 0)
    with pytest.raises(ValueError, match="pass the queries of all 12 tokens"):
        chunk_attention(queries[:, :, 4:], keys, 4)
