"""Where weights are, and how offloaded ones are fetched."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload

from pikvpress.devices import devices_of, weights_at_hand


def test_weights_are_fetched_and_put_back():
    module = torch.nn.Linear(3, 2)
    weight = module.weight.detach().clone()
    with weights_at_hand(module):
        assert torch.equal(module.weight, weight)
    assert devices_of(module) == {torch.device("cpu")}
    cpu_offload(module, execution_device=torch.device("cpu"))
    assert devices_of(module) == {torch.device("meta")}
    with pytest.raises(KeyError), weights_at_hand(module):
        assert torch.equal(module.weight, weight)
        raise KeyError
    assert devices_of(module) == {torch.device("meta")}
