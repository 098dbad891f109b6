"""Adapters are put on, taken off, and written whole or not at all."""

from __future__ import annotations

import peft
import pytest
import torch

from pikvpress.adaptation.adapter import adapter_on, save_adapter
from tests.adaptation.helpers import RECIPE, fill
from tests.conftest import make_tiny


@pytest.mark.parametrize("architecture", ["llama", "phi3"])
def test_only_attention_gets_an_adapter_and_the_model_is_restored(architecture, ids):
    model = make_tiny(architecture)
    model.lm_head.weight.requires_grad_(False)
    modules = [*model.named_modules()]
    before = model(ids).logits
    with adapter_on(model, RECIPE) as adapted:
        trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
        projection = "qkv_proj" if architecture == "phi3" else "q_proj"
        assert len(trained) == 2 * 2 * 2 and all(f"{projection}.lora_" in n or "o_proj.lora_" in n for n in trained)
        assert torch.equal(adapted(ids).logits, before)
        fill(adapted)
        assert not torch.allclose(adapted(ids).logits, before)
    assert [*model.named_modules()] == modules and torch.equal(model(ids).logits, before)
    assert all(parameter.requires_grad == (name != "lm_head.weight") for name, parameter in model.named_parameters())
    assert not hasattr(model, "peft_config")


def test_a_model_is_restored_after_an_error(ids):
    model = make_tiny("llama")
    with pytest.raises(KeyboardInterrupt), adapter_on(model, RECIPE):
        raise KeyboardInterrupt
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_is_written_is_what_peft_loads(tmp_path, ids):
    model, folder = make_tiny("llama"), tmp_path / "adapter"
    with adapter_on(model, RECIPE) as adapted:
        fill(adapted)
        wanted = adapted(ids).logits
        save_adapter(adapted, folder)
    loaded = peft.PeftModel.from_pretrained(model, folder).eval()
    assert torch.equal(loaded(ids).logits, wanted)
    assert [*tmp_path.iterdir()] == [folder]


def test_nothing_is_left_of_an_adapter_that_could_not_be_written(tmp_path, monkeypatch):
    model = make_tiny("llama")
    with adapter_on(model, RECIPE) as adapted:
        monkeypatch.setattr(adapted, "save_pretrained", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            save_adapter(adapted, tmp_path / "adapter")
    assert not any(tmp_path.iterdir())
