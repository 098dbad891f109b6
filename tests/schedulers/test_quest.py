"""Quest holds everything and reads the pages of highest bound, as a dense implementation does."""

from __future__ import annotations

import pytest
import torch

from pikvpress import PiKVCache
from tests.schedulers.dense import BATCH, GROUP, HEADS, PAGE, SIZE
from tests.schedulers.streams import WINDOW, Attention, held, read, stream


def dense(query, keys, values, left, pages):
    """Return attention of a token over the best full pages of the first `left` entries and all after them."""
    output = torch.zeros(BATCH, 1, HEADS * GROUP, SIZE, dtype=query.dtype)
    for row in range(BATCH):
        for head in range(HEADS):
            of_group = query[row, head * GROUP : (head + 1) * GROUP, 0]
            bounds = []
            for page in keys[row, head, :left].split(PAGE):
                of_channels = torch.maximum(of_group * page.amin(dim=0), of_group * page.amax(dim=0))
                bounds.append(of_channels.sum(dim=-1).max().item())
            chosen = sorted(sorted(range(len(bounds)), key=lambda page: bounds[page])[-pages:])
            places = [PAGE * page + offset for page in chosen for offset in range(PAGE)]
            places += range(left, keys.shape[2])
            for member in range(GROUP):
                weights = (keys[row, head, places] @ of_group[member] * SIZE**-0.5).softmax(dim=0)
                output[row, 0, head * GROUP + member] = weights @ values[row, head, places]
    return output


@pytest.mark.parametrize("seeds", [range(first, first + 10) for first in range(0, 50, 10)], ids=str)
def test_it_reads_what_the_dense_rule_reads(seeds):
    selective = 0
    for seed in seeds:
        quota, module, text = 64 + seed, Attention(), []
        cache = PiKVCache(window=WINDOW, scheduler="quest", max_tokens=WINDOW + PAGE + quota)
        for query, keys, values in stream(seed):
            before = sum(part.shape[2] for part, _ in text)
            left = max(0, before - WINDOW) // PAGE * PAGE
            output, turned = read(cache, module, query, keys, values)
            text.append((turned, values))
            every = [torch.cat(parts, dim=2) for parts in zip(*text, strict=True)]
            assert held(cache, 0) == [list(range(every[0].shape[2]))] * HEADS
            if query.shape[2] == 1 and left > quota:
                selective += 1
                expected = dense(query, *every, left, quota // PAGE)
            else:
                mask = torch.ones(query.shape[2], every[0].shape[2], dtype=torch.bool).tril(before)
                heads = [part.repeat_interleave(GROUP, dim=1) for part in every]
                expected = torch.nn.functional.scaled_dot_product_attention(query, *heads, mask).transpose(1, 2)
            torch.testing.assert_close(output, expected, atol=1e-9, rtol=1e-7)
    assert selective > 0


def test_bytes_are_no_ceiling_for_it():
    with pytest.raises(ValueError, match="'quest' does not keep max_bytes: give it max_tokens= or ratio= instead"):
        PiKVCache(scheduler="quest", max_bytes=10**9)


def test_keys_in_few_bits_are_refused():
    cache = PiKVCache("int8", "int8", window=WINDOW, scheduler="quest", max_tokens=200)
    with pytest.raises(ValueError, match="'quest' reads pages of exact keys: use a PiKVCache without codecs"):
        for query, keys, values in stream(0):
            read(cache, Attention(), query, keys, values)
    assert cache.get_seq_length() == 0
