"""The error curves of gates that were measured at the ratio nearest to a given one."""

from __future__ import annotations

import torch

from pikvpress.budgets.fitted_counts import fitted_counts
from pikvpress.budgets.marginal import marginal_errors
from pikvpress.gates import Gates


def nearest(gates: Gates, ratio: float) -> int:
    """Return the index of the measured ratio that is nearest to a given one."""
    return min(range(len(gates.ratios)), key=lambda i: abs(gates.ratios[i] - ratio))


def curves_near(gates: Gates, ratio: float) -> torch.Tensor:
    """Return the curves measured nearest to a ratio, shape (layers, kv_heads, keep shares).

    Raises
    ------
    ValueError
        If the gates have no curves.
    """
    if gates.curves is None:
        raise ValueError("these gates have no error curves: fit new gates, or use budgets='equal'")
    return gates.curves[nearest(gates, ratio)]


def counts_by_curves(gates: Gates, ratio: float, num_keys: int, num_kept: int) -> torch.Tensor:
    """Return the tokens that heads keep according to the curves nearest to a ratio, shape (layers, kv_heads).

    Parameters
    ----------
    gates : Gates
        Gates with error curves.
    ratio : float
        Share of the keys to remove.
    num_keys, num_kept : int
        Number of keys per head, and how many of them each head would keep at equal budgets.

    Raises
    ------
    ValueError
        If the gates have no curves.
    """
    return fitted_counts(curves_near(gates, ratio), gates.keep_shares, num_keys, num_kept)


def worth_by_curves(gates: Gates, ratio: float, layer: int, num_keys: int) -> torch.Tensor:
    """Return how much each kept token of a head reduces the error, from the first to the last, by the same curves.

    Parameters
    ----------
    gates : Gates
        Gates with error curves.
    ratio : float
        Share of the keys to remove.
    layer : int
        Index of the layer.
    num_keys : int
        Number of keys per head.

    Returns
    -------
    torch.Tensor
        Nats per token, float32, shape (kv_heads, num_keys), descending.

    Raises
    ------
    ValueError
        If the gates have no curves.
    """
    return marginal_errors(curves_near(gates, ratio)[layer], gates.keep_shares, num_keys)
