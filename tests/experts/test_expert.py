import pytest
import torch
from kvpress import CompactorPress, KnormPress

from pikvpress.experts import Expert, LayerInput, make_experts

LAYER = LayerInput(None, torch.zeros(1, 3, 4), torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4))


@pytest.mark.parametrize(
    ("name", "num_keys", "num_hidden_states", "able"),
    [
        ("snapkv", 64, 64, False),
        ("snapkv", 65, 65, True),
        ("snapkv", 100, 200, False),  # already pruned, so the position of the window is unknown
        ("snapkv", 200, 100, True),  # decoding
        ("snapkv", 200, 20, False),
        ("compactor", 200, 100, False),
        ("keydiff", 1, 300, True),
        ("expected_attention", 100, 200, True),
        ("expected_attention", 200, 3, False),
        ("lagkv", 100, 200, False),
    ],
)
def test_experts_know_what_they_can_score(name, num_keys, num_hidden_states, able):
    assert make_experts([name], None)[0].can_score(num_keys, num_hidden_states) is able


def test_the_ratio_is_set_for_the_score_and_put_back_even_on_failure():
    class Failing(KnormPress):
        def score(self, *args, **kwargs):
            assert self.compression_ratio == 0.7
            raise RuntimeError("inside")

    press = Failing(compression_ratio=0.1)
    with pytest.raises(RuntimeError, match="inside"):
        Expert("failing", press).score(LAYER, 0.7)
    assert press.compression_ratio == 0.1


def test_random_experts_repeat_themselves_and_leave_the_generator_alone():
    class Random(CompactorPress):
        def score(self, *args, **kwargs):
            return torch.randn(3)

    expert = Expert("random", Random(), random=True)
    before = torch.get_rng_state()
    first = expert.score(LAYER, 0.5)
    second = expert.score(LAYER, 0.5)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
