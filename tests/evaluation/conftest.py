"""A small random model with the real tokenizer, in a folder as a user would name it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def tokenizer(smollm):
    return smollm[1]


@pytest.fixture(scope="session")
def tiny(tokenizer):
    """Return a random model whose attention is not flat, for the real tokenizer.

    Its queries point to one side of slowly turning channels, as those of trained models do: kvpress masks an entry by a
    key that all queries of a question dislike, and for queries that point everywhere there is none.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        head_dim=32,
        attention_bias=True,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter.mul_(8 if parameter.dim() == 2 else 1)
            if "q_proj.bias" in name:
                parameter.view(4, 2, 16)[..., 11:] = 3
    return model


@pytest.fixture(scope="session")
def tiny_folder(tiny, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny.save_pretrained(folder)
    # The tokenizer of a GGUF file does not survive being saved as the class that it has.
    names = ("bos_token", "eos_token", "pad_token", "unk_token", "chat_template")
    special = {name: getattr(tokenizer, name) for name in names}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **special).save_pretrained(folder)
    return folder
