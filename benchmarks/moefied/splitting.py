"""The MLPs of a dense model, divided into experts with a router each, while the model reads texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from benchmarks.moefied.clustering import active_on, balanced_clusters
from pikvpress import models

RIDGE = 0.1


@dataclass(frozen=True)
class Split:
    """How an MLP is divided.

    Parameters
    ----------
    neurons : torch.Tensor
        Indices of the neurons of each expert, int64, shape (experts, neurons per expert).
    router : torch.Tensor
        Weight of a linear router, whose logits estimate the logarithms of the norms of the experts' outputs, up to a
        number that is the same for all, float32, shape (experts, hidden).
    """

    neurons: torch.Tensor
    router: torch.Tensor


@torch.no_grad()
def split_layers(
    model: PreTrainedModel, ids: torch.Tensor, experts: int, seed: int = 0, done: Callable[[], None] = lambda: None
) -> list[Split]:
    """Divide the MLP of each layer into experts of equal size.

    Parameters
    ----------
    model : PreTrainedModel
        A model with gated MLPs, which is not changed.
    ids : torch.Tensor
        Token ids of texts, shape (texts, tokens), read at once.
    experts : int
        Number of experts per layer.
    seed : int, default=0
        Random seed of the clusters.
    done : callable
        Called after each layer.
    """
    found: list[Split] = []
    entering: list[torch.Tensor] = []

    def enter(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        entering.append(args[0].flatten(0, 1))

    def divide(down: torch.Tensor, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        found.append(_split(entering.pop(), args[0].flatten(0, 1), down, experts, seed))
        done()

    handles = []
    for layer in models.language_model(model).layers:
        mlp: Any = layer.mlp
        handles.append(mlp.register_forward_pre_hook(enter))
        handles.append(mlp.down_proj.register_forward_pre_hook(partial(divide, mlp.down_proj.weight)))
    with models.hooked(handles):
        models.language_model(model)(input_ids=ids, use_cache=False)
    return found


def _split(inputs: torch.Tensor, activations: torch.Tensor, down: torch.Tensor, experts: int, seed: int) -> Split:
    inputs, activations, down = inputs.float(), activations.float(), down.float()
    neurons = balanced_clusters(active_on(activations.abs() * down.norm(dim=0)), experts, seed)
    norms = [(activations[:, own] @ down[:, own].T).norm(dim=1) for own in neurons]
    return Split(neurons, fit_router(inputs, torch.stack(norms, dim=1)))


def fit_router(inputs: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """Return the weight of a router that estimates which experts have the largest outputs, by ridge regression.

    The target is the logarithm of an expert's norm, relative to the mean over experts: shares of the norm, or of its
    square, as targets left errors that were as large or larger.

    Parameters
    ----------
    inputs : torch.Tensor
        Inputs of the MLP, shape (tokens, hidden).
    norms : torch.Tensor
        Norms of the experts' outputs, shape (tokens, experts).

    Returns
    -------
    torch.Tensor
        Shape (experts, hidden).
    """
    target = norms.clamp_min(torch.finfo(norms.dtype).tiny).log()
    target = target - target.mean(dim=1, keepdim=True)
    products, with_target = inputs.T @ inputs / len(inputs), inputs.T @ target / len(inputs)
    ridge = RIDGE * products.diagonal().mean() * torch.eye(len(products), dtype=products.dtype, device=inputs.device)
    return torch.linalg.solve(products + ridge, with_target).T.contiguous()
