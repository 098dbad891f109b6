"""Replacements for downloads of the suite: models, tokenizers, filters, statistics."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import kvpress
import torch
import transformers
from kvpress.pipeline import KVPressTextGenerationPipeline
from kvpress.presses import expected_attention_with_stats as statistics
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

# The suite assumes the shape of MaxJeblick/llama2-0b-unit-test in places: layers, KV heads, channels of a head. The
# vocabulary is that of the tokenizer, each KV head has two query heads, and weights are large enough for attention to
# matter.
TINY: dict[str, Any] = {
    "vocab_size": 49216,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 4096,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_FOR_MODELS = ("attn_implementation", "dtype")


def is_tiny(name: str) -> bool:
    """Return whether a name refers to a model for unit tests."""
    return "unit-test" in name.lower()


def install(watched: Callable[[PreTrainedModel], PreTrainedModel]) -> None:
    """Replace downloads; every model is watched."""

    _default_model()  # before classes are patched

    def load(name: str, *args: Any, **kwargs: Any) -> PreTrainedModel:
        kwargs = kwargs | kwargs.pop("model_kwargs", {})
        kwargs = {option: kwargs[option] for option in _FOR_MODELS if kwargs.get(option) not in (None, "auto")}
        model = _tiny(name, **kwargs) if is_tiny(name) else _default_model().load_model(**kwargs)[0]
        model.config._name_or_path = name
        return watched(model)

    def pipeline(task: str, model: Any = None, tokenizer: Any = None, **kwargs: Any) -> Any:
        if isinstance(model, str):
            tokenizer = _tokenizer(model) if tokenizer is None else tokenizer
            model = load(model, **kwargs)
        return KVPressTextGenerationPipeline(model=model, tokenizer=tokenizer, device=model.device)

    replaced: list[tuple[Any, str, Any]] = [
        (AutoModelForCausalLM, "from_pretrained", load),
        (AutoTokenizer, "from_pretrained", lambda name, *args, **kwargs: _tokenizer(name)),
        (transformers, "pipeline", pipeline),
        (kvpress.QFilterPress, "load_q_filters", staticmethod(_filters)),
        (kvpress.ExpectedAttentionStatsPress, "_maybe_load_stats_from_hub", _statistics),
    ]
    for owner, name, stand_in in replaced:
        setattr(owner, name, stand_in)


def _tiny(name: str, dtype: torch.dtype = torch.float32, **kwargs: Any) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(
            2
        )  # with seed 0 tokens tie in BlockPress's test, with 1 CAMPress draws other merges in its test
        return LlamaForCausalLM._from_config(LlamaConfig(**TINY), dtype=dtype, **kwargs).eval()


@cache
def _default_model() -> ModuleType:
    """Return `pikvpress.default_model` without its package: in the plain pass pikvpress must not be imported.

    It keeps using the present methods of the classes, even if they are replaced later.
    """
    package = importlib.util.find_spec("pikvpress")
    assert package is not None and package.origin is not None
    spec = importlib.util.spec_from_file_location("default_model", Path(package.origin).parent / "default_model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.AutoModelForCausalLM = _Real(AutoModelForCausalLM)  # type: ignore[attr-defined]
    module.AutoTokenizer = _Real(AutoTokenizer)  # type: ignore[attr-defined]
    return module


class _Real:
    """The present `from_pretrained` of a class."""

    def __init__(self, owner: Any) -> None:
        self.from_pretrained = owner.from_pretrained


@cache
def _tokenizer(name: str) -> Any:
    """Return the tokenizer for a model; models for unit tests have no chat template."""
    default = _default_model()
    folder, where = default.resolve_model()
    tokenizer = default.AutoTokenizer.from_pretrained(folder, **where)
    if is_tiny(name):
        tokenizer.chat_template = None
    return tokenizer


def _filters(name: str) -> torch.Tensor:
    """Return filters for QFilterPress for the tiny model, the only one used by tests."""
    if not is_tiny(name):
        raise OSError(f"the filters of {name} are on a hub")
    shape = TINY["num_hidden_layers"], TINY["num_key_value_heads"], TINY["head_dim"]
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _statistics(press: kvpress.ExpectedAttentionStatsPress, model: PreTrainedModel) -> torch.nn.Module:
    """Return query statistics for ExpectedAttentionStatsPress: an arbitrary mean, and no correlation."""
    config = model.config
    shape = config.num_hidden_layers, config.num_attention_heads, config.head_dim
    found = statistics.ExpectedAttentionStats(*shape, press.dataset_name, config.name_or_path, 1, 1, press.n_sink)
    found.query_mean.data = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    found.query_cov.data = torch.eye(config.head_dim).expand(*shape, -1).clone()
    return found
