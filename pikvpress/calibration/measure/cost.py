"""What a selection of keys would cost a future, in nats."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pikvpress.calibration.measure.reading import FutureReading


def divergence(reading: FutureReading, order: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Return what keeping the first so many keys of an order costs: ½ E[(g · d)²] summed over a head's rows.

    d is the change of the attention output, g the gradient of the log probability of a token that the model itself
    predicts. The sum over heads and layers is, to second order and without their interactions, the KL divergence that
    the selection makes, in nats, summed over the futures' tokens (Fisher information; Amari 1998, and as saliency
    LeCun et al., Optimal Brain Damage, 1990).

    Parameters
    ----------
    reading : FutureReading
        Of futures on a context.
    order : torch.Tensor
        Positions of keys, the best first, int64, shape (kv_heads, n), n >= max(counts).
    counts : sequence of int
        How many are kept, ascending, each at least 1.

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
        Says what the output was and what hangs on it.
    output : torch.Tensor
        Sum of the attended values that are left, not normalised, shape (kv_heads, rows, head_dim).
    mass : torch.Tensor
        Attention that is left, shape (kv_heads, rows).
    """
    change = output / mass.clamp_min(1e-9).unsqueeze(-1) - reading.output
    return 0.5 * (reading.gradients * change).sum(dim=-1).square().mean(dim=0).sum(dim=-1)


def selection_cost(reading: FutureReading, kept: torch.Tensor) -> torch.Tensor:
    """Return what each head loses, shape (kv_heads,), if it keeps keys so far: shape (kv_heads, keys)."""
    weighed = reading.attention * kept.unsqueeze(1)
    output = reading.other_output + weighed @ reading.values
    return cost(reading, output, reading.other_mass + weighed.sum(dim=-1))


@torch.no_grad()
def removal_costs(reading: FutureReading) -> torch.Tensor:
    """Return what predictions lose if one key is removed, in nats summed over a head's rows, shape (kv_heads, keys).

    Without key t the others' attention grows in proportion, so that the output o changes by a_t / (1 - a_t) (o - v_t);
    the loss is ½ E[(g · change)²], as in `divergence`.
    """
    worth = torch.einsum("shrd,hkd->shrk", reading.gradients, reading.values)
    worth -= (reading.gradients * reading.output).sum(dim=-1, keepdim=True)
    worth *= reading.attention / (1 - reading.attention).clamp_min(1e-3)
    return worth.square_().mean(dim=0).sum(dim=1) / 2
