"""The model with its full cache: how futures attend to a context, and what their predictions depend on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from pikvpress import models


@dataclass(frozen=True)
class LayerFuture:
    """A future as seen by one attention layer. No batch dimension.

    Parameters
    ----------
    queries : torch.Tensor
        Rotated queries, shape (heads, tokens, head_dim).
    keys, values : torch.Tensor
        Keys and values of the future's own tokens, shape (kv_heads, tokens, head_dim).
    gradients : torch.Tensor
        Gradients of the log probability of tokens sampled from the model's own predictions, with respect to each head's
        attention output, shape (samples, heads, tokens, head_dim).
    """

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    gradients: torch.Tensor


def read_future(
    model: PreTrainedModel,
    cache: DynamicCache,
    future: Sequence[int],
    samples: int,
    generator: torch.Generator,
) -> list[LayerFuture]:
    """Read a future after a context and compute gradients of its predictions.

    The expected outer product of these gradients is the Fisher information: with d the change of an attention output, ½
    E[(g · d)²] is, to second order, the resulting KL divergence of the predictions.

    Parameters
    ----------
    model : PreTrainedModel
        A model in eval mode; the gradients of its parameters are not changed.
    cache : DynamicCache
        The full cache of the context, which is not changed.
    future : sequence of int
        Token ids after the context.
    samples : int
        Number of label samples.
    generator : torch.Generator
        Random generator for labels, on the CPU.

    Returns
    -------
    list of LayerFuture
        One entry per layer.
    """
    held = cache.get_seq_length()
    ids = torch.tensor([list(future)], device=model.device)
    longer = models.copied(cache)
    outputs: list[torch.Tensor] = []
    with torch.enable_grad(), _states(model) as states, _projection_inputs(model, outputs):
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        logits = model(inputs_embeds=embedded, past_key_values=longer).logits[0].float()
        probabilities = logits.detach().softmax(dim=-1).cpu()
        gradients = []
        for _ in range(samples):
            labels = torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits.device)
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
            gradients.append(torch.autograd.grad(loss, outputs, retain_graph=True))
    futures = []
    for index, (attention, (hidden, position)) in enumerate(zip(models.attention_layers(model), states, strict=True)):
        layer: Any = longer.layers[index]
        with torch.no_grad():
            queries = models.rotate(models.queries_before_rotation(attention, hidden), *position)[0]
        by_head = [gradient[index][0].unflatten(-1, (queries.shape[0], -1)).transpose(0, 1) for gradient in gradients]
        own = (layer.keys[0, :, held:].detach(), layer.values[0, :, held:].detach())
        futures.append(LayerFuture(queries, *own, torch.stack(by_head)))
    return futures


@contextmanager
def _states(model: PreTrainedModel) -> Iterator[list[tuple[torch.Tensor, tuple[torch.Tensor, ...]]]]:
    """Collect every attention layer's hidden states and position embeddings."""
    seen: list[tuple[torch.Tensor, tuple[torch.Tensor, ...]]] = []

    def keep(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        seen.append((kwargs["hidden_states"].detach(), models.rotation_of(module, kwargs)["position_embeddings"]))

    with models.hooked(
        [layer.register_forward_hook(keep, with_kwargs=True) for layer in models.attention_layers(model)]
    ):
        yield seen


@contextmanager
def _projection_inputs(model: PreTrainedModel, seen: list[torch.Tensor]) -> Iterator[None]:
    """Collect every attention layer's input to its output projection."""

    def keep(module: nn.Module, args: tuple) -> None:
        seen.append(args[0])

    with models.hooked([layer.o_proj.register_forward_pre_hook(keep) for layer in models.attention_layers(model)]):
        yield
