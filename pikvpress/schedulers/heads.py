"""Numbers that are given for the heads of a model."""

from __future__ import annotations

import torch

from pikvpress import models


def check_heads(name: str, numbers: torch.Tensor, module: models.Attention, features: tuple[int, ...] = ()) -> None:
    """Raise a ``ValueError`` unless there is a number, or a row of them, for each layer and KV head of a model.

    Parameters
    ----------
    name : str
        What they are called.
    numbers : torch.Tensor
        Shape (layers, kv_heads, *features).
    module : Attention
        An attention module of the model.
    features : tuple of int, default=()
        Length of the rows.
    """
    wanted = (int(module.config.num_hidden_layers), models.num_key_value_heads(module), *features)
    if tuple(numbers.shape) != wanted:
        raise ValueError(
            f"{name} has shape {tuple(numbers.shape)}, but this model needs {wanted}: one for each layer and KV head"
        )
