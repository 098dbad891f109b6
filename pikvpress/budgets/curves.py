"""Error curves of gates, and those measured nearest to a ratio."""

from __future__ import annotations

import torch

from pikvpress.budgets.fitted_counts import fitted_counts
from pikvpress.budgets.marginal import marginal_errors
from pikvpress.gates import Gates


def nearest(gates: Gates, ratio: float) -> int:
    """Return the index of the measured ratio that is nearest to one."""
    return min(range(len(gates.ratios)), key=lambda i: abs(gates.ratios[i] - ratio))


def curves_near(gates: Gates, ratio: float) -> torch.Tensor:
    """Return the curves measured nearest to a ratio, shape (layers, kv_heads, keep shares).

    Raises
    ------
    ValueError
        If the gates carry no curves.
    """
    if gates.curves is None:
        raise ValueError("these gates carry no error curves: fit gates anew, or use budgets='equal'")
    return gates.curves[nearest(gates, ratio)]


def counts_by_curves(gates: Gates, ratio: float, num_keys: int, num_kept: int) -> torch.Tensor:
    """Return the tokens that heads keep by the curves measured nearest to a ratio, shape (layers, kv_heads).

    Parameters
    ----------
    gates : Gates
        With error curves.
    ratio : float
        Share of the keys to remove.
    num_keys, num_kept : int
        Keys of a head, and how many each would keep at equal budgets.

    Raises
    ------
    ValueError
        If the gates carry no curves.
    """
    return fitted_counts(curves_near(gates, ratio), gates.keep_shares, num_keys, num_kept)


def worth_by_curves(gates: Gates, ratio: float, layer: int, num_keys: int) -> torch.Tensor:
    """Return the error that each token a head keeps removes, from the first to the last, by the same curves.

    Parameters
    ----------
    gates : Gates
        With error curves.
    ratio : float
        Share of the keys to remove.
    layer : int
        Which layer.
    num_keys : int
        Keys of a head.

    Returns
    -------
    torch.Tensor
        Nats a token, float32, shape (kv_heads, num_keys), descending.

    Raises
    ------
    ValueError
        If the gates carry no curves.
    """
    return marginal_errors(curves_near(gates, ratio)[layer], gates.keep_shares, num_keys)
