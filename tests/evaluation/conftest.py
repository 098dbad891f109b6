"""A small random model with the real tokenizer, also saved to a folder, as a user would have it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from evaluation.compressors import SourceContext
from evaluation.prefilling import tokenizer_by_name
from pikvpress import models
from pikvpress.gates import Gates, file_name, key, save_gates
from pikvpress.routers import ROUTERS, RouterSettings
from pikvpress.routers.feature_names import feature_names
from pikvpress.saliency_features import num_features


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
    # A tokenizer loaded from a GGUF file cannot be saved as its own class and loaded again.
    names = ("bos_token", "eos_token", "pad_token", "unk_token", "chat_template")
    special = {name: getattr(tokenizer, name) for name in names}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **special).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def random_context():
    """Return the ids of 300 random tokens."""
    return torch.randint(100, 40000, (300,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module")
def source(tiny, tokenizer, random_context) -> SourceContext:
    """Return that context, prefilled."""
    return SourceContext(tiny, tokenizer, random_context, (0.25, 0.75))


@pytest.fixture
def named(tiny, tokenizer, tmp_path, monkeypatch):
    """Make the tokenizer, and gates with fitted budgets, available to presses."""
    monkeypatch.setenv("PIKVPRESS_GATES", str(tmp_path))
    experts, layers = ["keydiff", "knorm"], models.attention_layers(tiny)
    heads = models.num_key_value_heads(layers[0])
    router = ROUTERS["pikv"]([1.0, 1.0], feature_names(experts), len(layers), heads, RouterSettings(top_k=2))
    curves = torch.rand(1, len(layers), heads, 3, generator=torch.Generator().manual_seed(0)).sort(dim=-1).values
    model = models.fingerprint(layers[0])
    saliency = torch.randn(
        len(layers), heads, num_features(layers[0].head_dim), generator=torch.Generator().manual_seed(1)
    )
    routers = {key("pikv", "fitted"): router.state_dict()}
    gates = Gates(model, experts, routers, curves, (1.0, 0.5, 0.1), (0.5,), saliency=saliency)
    save_gates(tmp_path / file_name(model), gates)
    with tokenizer_by_name(tiny, tokenizer):
        yield
