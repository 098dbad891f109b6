import pytest
import torch

from pikvpress.kernels.window_scores import received_attention


@pytest.mark.parametrize("window", [1, 5, 12])
@pytest.mark.parametrize("group", [1, 3])
def test_a_key_receives_what_later_queries_pay(window, group):
    torch.manual_seed(0)
    length, size = 12, 8
    queries, keys = torch.randn(2, 2 * group, window, size), torch.randn(2, 2, length, size)
    scores = received_attention(queries, keys, size**-0.5)
    for head in range(2):
        expected = torch.zeros(2, length)
        for member in range(group):
            for row in range(window):
                seen = length - window + row + 1
                logits = (keys[:, head, :seen] @ queries[:, head * group + member, row].unsqueeze(-1)).squeeze(-1)
                expected[:, :seen] += (logits * size**-0.5).softmax(dim=-1) / group
        torch.testing.assert_close(scores[:, head], expected)
