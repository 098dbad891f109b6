"""The cost of a selection of keys to a future, in nats."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pikvpress.calibration.measure.reading import FutureReading


def divergence(reading: FutureReading, order: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Return the cost of keeping only the first keys of an order: ½ E[(g · d)²] summed over a head's rows.

    d is the change of the attention output, and g is the gradient of the log probability of a token that the model
    itself predicts. To second order and without interactions, the sum over heads and layers is the KL divergence caused
    by the selection, in nats, summed over the futures' tokens (Fisher information; Amari 1998, and as saliency LeCun et
    al., Optimal Brain Damage, 1990).

    Parameters
    ----------
    reading : FutureReading
        Reading of a context by futures.
    order : torch.Tensor
        Positions of keys, the best first, int64, shape (kv_heads, n), n >= max(counts).
    counts : sequence of int
        Numbers of keys to keep, ascending, each at least 1.

    Returns
    -------
    torch.Tensor
        float32, shape (kv_heads, len(counts)).
    """
    order = order[:, : counts[-1]]
    attention = reading.attention.gather(2, order.unsqueeze(1).expand(-1, reading.attention.shape[1], -1))
    values = reading.values.gather(1, order.unsqueeze(2).expand(-1, -1, reading.values.shape[2]))
    output, mass, first = reading.other_output, reading.other_mass, 0
    costs = []
    for last in counts:
        part = attention[:, :, first:last]
        output = output + part @ values[:, first:last]
        mass = mass + part.sum(dim=-1)
        costs.append(cost(reading, output, mass))
        first = last
    return torch.stack(costs, dim=-1)


def cost(reading: FutureReading, output: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """Return ½ E[(g · d)²] summed over a head's rows, shape (kv_heads,).

    Parameters
    ----------
    reading : FutureReading
        Provides the original output and the gradients.
    output : torch.Tensor
        Unnormalised sum of the attended values that are left, shape (kv_heads, rows, head_dim).
    mass : torch.Tensor
        Attention that is left, shape (kv_heads, rows).
    """
    change = output / mass.clamp_min(1e-9).unsqueeze(-1) - reading.output
    return 0.5 * (reading.gradients * change).sum(dim=-1).square().mean(dim=0).sum(dim=-1)


def selection_cost(reading: FutureReading, kept: torch.Tensor) -> torch.Tensor:
    """Return the loss of each head, shape (kv_heads,), if keys are kept to these degrees, shape (kv_heads, keys)."""
    weighed = reading.attention * kept.unsqueeze(1)
    output = reading.other_output + weighed @ reading.values
    return cost(reading, output, reading.other_mass + weighed.sum(dim=-1))


@torch.no_grad()
def removal_costs(reading: FutureReading) -> torch.Tensor:
    """Return the loss of predictions if one key is removed, in nats summed over a head's rows, shape (kv_heads, keys).

    Without key t, the attention to the other keys grows proportionally, so the output o changes by a_t / (1 - a_t) (o -
    v_t); the loss is ½ E[(g · change)²], as in `divergence`.
    """
    worth = torch.einsum("shrd,hkd->shrk", reading.gradients, reading.values)
    worth -= (reading.gradients * reading.output).sum(dim=-1, keepdim=True)
    worth *= reading.attention / (1 - reading.attention).clamp_min(1e-3)
    return worth.square_().mean(dim=0).sum(dim=1) / 2
