"""Continuous batching works as without pikvpress, and is refused in one sentence if a press is on the model."""

from __future__ import annotations

import pytest
import torch
from kvpress import KnormPress
from transformers import GenerationConfig

from pikvpress import MoERouterPress

SETTINGS = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
PAGES = {"num_blocks": 16, "max_batch_tokens": 64}


def batched(model, prompts):
    found = model.generate_batch(prompts, GenerationConfig(**SETTINGS, **PAGES), progress_bar=False)
    return [one.generated_tokens for one in found.values()]


def test_without_a_press_tokens_are_those_of_generate(llama, ids):
    prompts = [ids[0, :20].tolist(), ids[0, 20:27].tolist(), ids[0, 30:60].tolist()]
    expected = [
        llama.generate(torch.tensor([one]), max_new_tokens=6, do_sample=False)[0, len(one) :] for one in prompts
    ]
    assert batched(llama, prompts) == [one.tolist() for one in expected]


@pytest.mark.parametrize("press", [MoERouterPress(0.5), KnormPress(0.5)], ids=["ours", "kvpress"])
def test_a_press_on_the_model_is_refused_before_anything_starts(llama, ids, press):
    with press(llama), pytest.raises(ValueError, match=r"Press cannot compress during continuous batching.*use gen"):
        batched(llama, [ids[0, :20].tolist()])
    assert llama.config._attn_implementation == "sdpa"


def test_a_press_is_refused_once_it_has_begun(llama):
    manager = llama.init_continuous_batching(GenerationConfig(**SETTINGS, **PAGES))
    with pytest.raises(ValueError, match=r"paged cache.*set_attn_implementation\('sdpa'\)"), MoERouterPress(0.5)(llama):
        pass
    del manager
    llama.set_attn_implementation("sdpa")
    with MoERouterPress(0.5)(llama):
        pass
