"""Attention over heads of different length, against softmax written out in float64."""

from __future__ import annotations

import pytest
import torch

from pikvpress.kernels.ragged_attention import attend

BATCH, HEADS, GROUP, DIM = 2, 3, 2, 16


class Parts:
    def __init__(self, parts):
        self._parts = parts

    def part(self, index):
        return self._parts[index]


def random_rows(counts, generator):
    return [torch.randn(count, DIM, generator=generator) for count in counts]


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("recent", [3, 7])
def test_it_is_softmax_over_everything_that_is_there(tokens, recent):
    generator = torch.Generator().manual_seed(tokens)
    query = torch.randn(BATCH, HEADS * GROUP, tokens, DIM, generator=generator)
    counts = [[5, 0, 9, 1, 30, 2], [4, 4, 0, 0, 8, 1]]
    held = [(random_rows(row, generator), random_rows(row, generator)) for row in counts]
    keys, values = torch.randn(2, BATCH, HEADS, recent, DIM, generator=generator)
    hidden = torch.zeros(BATCH, 1, tokens, recent, dtype=torch.bool)
    hidden[0, :, :, 0] = True
    output, lse = attend(query, [(Parts(k), Parts(v)) for k, v in held], keys, values, hidden, 0.3)
    for row in range(BATCH):
        for head in range(HEADS * GROUP):
            place = row * HEADS + head // GROUP
            seen = ~hidden[row, 0, 0]
            all_keys = torch.cat([held[0][0][place], held[1][0][place], keys[row, head // GROUP][seen]]).double()
            all_values = torch.cat([held[0][1][place], held[1][1][place], values[row, head // GROUP][seen]]).double()
            logits = query[row, head].double() @ all_keys.T * 0.3
            torch.testing.assert_close(
                output[row, head].double(), logits.softmax(-1) @ all_values, atol=1e-5, rtol=1e-5
            )
            torch.testing.assert_close(lse[row, head].double(), logits.logsumexp(-1), atol=1e-5, rtol=1e-5)
