"""Tiny random models of every supported architecture, and the real one."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():  # before anything imports triton
    os.environ["TRITON_INTERPRET"] = "1"

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.models.gemma3.configuration_gemma3 import Gemma3Config

VOCABULARY = 512
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "eos_token_id": None,
    "bos_token_id": None,
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
GEMMA = {"head_dim": 16, "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=None),
    "mixtral": lambda: MixtralConfig(**SIZES, sliding_window=None, num_local_experts=4),
    "phi3": lambda: Phi3Config(**SIZES),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=16),
    "qwen3_moe": lambda: Qwen3MoeConfig(**SIZES, **MOE, head_dim=16),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, **GEMMA),
}

# Settings of architectures that are tested in one place only, by the names that transformers gives them.
ROTARY = {"rope_type": "default", "rope_theta": 10000.0}
WINDOW = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
LOCAL_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
GATED_DELTA = {f"linear_{name}": 16 for name in ("key_head_dim", "value_head_dim")}
OTHERS: dict[str, dict] = {
    "cohere": {},
    "cohere2": WINDOW,
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "q_lora_rank": 16,
    }
    | {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "moe_intermediate_size": 32},
    "gemma2": GEMMA,
    "gemma3n_text": GEMMA
    | {"num_kv_shared_layers": 1, "vocab_size_per_layer_input": VOCABULARY}
    | {"hidden_size_per_layer_input": 8, "laurel_rank": 8, "activation_sparsity_pattern": [0.0, 0.0]}
    | {"layer_types": ["full_attention", "full_attention"]},
    "glm4": {"head_dim": 16, "rope_parameters": ROTARY | {"partial_rotary_factor": 0.5}},
    "gpt2": {"n_layer": 2, "n_head": 4, "n_embd": 64},
    "gpt_oss": WINDOW | LOCAL_MOE | {"head_dim": 16, "rope_parameters": ROTARY},
    "granite": {},
    "granitemoe": LOCAL_MOE,
    "llama4_text": LOCAL_MOE
    | {"head_dim": 16, "intermediate_size_mlp": 96, "no_rope_layers": [1, 0]}
    | {"attention_chunk_size": 64, "layer_types": ["chunked_attention", "full_attention"]},
    "ministral": WINDOW | {"head_dim": 16},
    "ministral3": {"head_dim": 16, "sliding_window": None},
    "olmo": {},
    "olmo2": {},
    "olmo3": WINDOW,
    "olmoe": MOE,
    "phi4": {"rope_parameters": ROTARY | {"partial_rotary_factor": 0.75}},
    "qwen2_moe": MOE | {"shared_expert_intermediate_size": 32},
    "qwen3_next": MOE
    | GATED_DELTA
    | {"head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 2}
    | {"layer_types": ["linear_attention", "full_attention"]},
    "smollm3": {"no_rope_layers": [1, 0]},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest tests first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(("tests/test_notebooks", "tests/test_readme")))


def _other_config(name: str):
    """Return a configuration of OTHERS; Phi-4 mini is a Phi-3 that rotates three quarters of the channels."""
    return AutoConfig.for_model({"phi4": "phi3"}.get(name, name), **(SIZES | OTHERS[name]))


def make_tiny(name: str = "llama", seed: int = 0, **kwargs) -> PreTrainedModel:
    """Return a random model of an architecture; q/k norms get random weights, so that skipping one has an effect."""
    torch.manual_seed(seed)
    if name == "gemma3_vision":
        text = CONFIGS["gemma3"]()
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
        vision |= {"image_size": 28, "patch_size": 14}
        config = Gemma3Config(text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=1)
        model = Gemma3ForConditionalGeneration._from_config(config, **kwargs)
    else:
        config = CONFIGS[name]() if name in CONFIGS else _other_config(name)
        model = AutoModelForCausalLM.from_config(config, **kwargs)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "q_norm" in parameter_name or "k_norm" in parameter_name:
                parameter.copy_(torch.rand_like(parameter) + 0.5)
            elif parameter.dim() == 2 and ("q_proj" in parameter_name or "k_proj" in parameter_name):
                parameter.mul_(8)  # attention that is not flat
            elif "sinks" in parameter_name:
                parameter.normal_()
    return model.eval()


@pytest.fixture
def llama() -> PreTrainedModel:
    return make_tiny("llama")


@pytest.fixture
def ids() -> torch.Tensor:
    """Return a context of 300 tokens, all different, so that no two rows of a cache are alike."""
    return torch.randperm(VOCABULARY - 1, generator=torch.Generator().manual_seed(7))[None, :300] + 1


@pytest.fixture(scope="session")
def smollm():
    """Return the real model and its tokenizer."""
    from pikvpress.default_model import load_model

    return load_model()


@pytest.fixture
def tiny_folder(tmp_path):
    """Return a folder with a tiny model and its tokenizer, for commands."""
    from tests.evaluation.tiny_tokenizer import make_tokenizer

    folder = tmp_path / "model"
    make_tiny("llama", seed=21).save_pretrained(folder)
    words = "Line of text tells things . The ' s is opened with the code stands in painted cost crowns".split()
    make_tokenizer(vocabulary=[*words, *map(str, range(300))]).save_pretrained(folder)
    return folder
