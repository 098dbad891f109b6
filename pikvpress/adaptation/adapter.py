"""An adapter on a model, and the same model afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.adaptation.recipe import AdaptationRecipe
from pikvpress.support.whole_file import whole_folder


@contextmanager
def adapter_on(model: PreTrainedModel, recipe: AdaptationRecipe) -> Iterator[PeftModel]:
    """Put a new LoRA adapter on the query and output projections of a model's attention, and take it off in the end.

    Its parameters are the only ones that require gradients meanwhile.

    Parameters
    ----------
    model : PreTrainedModel
        The model, which is restored at the end.
    recipe : AdaptationRecipe
        Rank of the adapter's matrices, and the seed of their first values, which is also set for everything after.
    """
    needed_gradients = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    torch.manual_seed(recipe.seed)  # `adapt` restores the caller's generator
    rank = recipe.rank
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_targets(model), task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)  # type: ignore[arg-type]
    adapted.eval()
    try:
        yield adapted
    finally:
        adapted.unload()
        for name in ("peft_config", "_hf_peft_config_loaded"):
            model.__dict__.pop(name, None)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(needed_gradients[name])


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write an adapter to a folder that does not exist yet or is empty; whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    with whole_folder(folder) as partial:
        model.save_pretrained(str(partial), save_embedding_layers=False)


def _targets(model: PreTrainedModel) -> list[str]:
    """Return the full names of the projections to queries and from heads, of all layers that can be compressed."""
    wanted = set()
    for layer in models.attention_layers(model):
        queries = layer.q_proj if hasattr(layer, "q_proj") else layer.qkv_proj
        wanted |= {id(queries), id(layer.o_proj)}
    return [name for name, module in model.named_modules() if id(module) in wanted]
