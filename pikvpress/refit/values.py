"""The values of kept entries, refitted in closed form."""

from __future__ import annotations

import torch

RIDGE = 0.05


def refit_values(
    queries: torch.Tensor,
    wanted: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
    ridge: float = RIDGE,
) -> torch.Tensor:
    """Return values of heads with which the kept entries give the attention output of all entries.

    With A = softmax(Q Kᵀ · scaling) over the kept keys K, and O the wanted output, the kept values V become V + (Aᵀ A +
    λ I)⁻¹ Aᵀ (O - A V), where λ is `ridge` times the mean of the diagonal of Aᵀ A. This is ridge regression towards V.
    If there are more keys than queries, the equal Aᵀ (A Aᵀ + λ I)⁻¹ (O - A V) takes less time.

    Parameters
    ----------
    queries : torch.Tensor
        Rotated reference queries Q, shape (..., queries, head_dim).
    wanted : torch.Tensor
        Their attention output over all entries O, shape (..., queries, head_dim).
    keys, values : torch.Tensor
        Kept keys, as they will be read, and kept values, shape (..., kept, head_dim).
    scaling : float
        Factor on the logits.
    ridge : float, default=0.05
        Regularisation, more than 0: few reference queries do not determine all values.

    Returns
    -------
    torch.Tensor
        float32, shape (..., kept, head_dim).
    """
    attention = (queries @ keys.mT * scaling).softmax(dim=-1)
    missing = wanted - attention @ values
    few_keys = attention.shape[-1] <= attention.shape[-2]
    products = attention.mT @ attention if few_keys else attention @ attention.mT
    mean = attention.square().sum(dim=(-2, -1)) / attention.shape[-1]
    products.diagonal(dim1=-2, dim2=-1).add_(ridge * mean.unsqueeze(-1))
    factor = torch.linalg.cholesky(products)
    if few_keys:
        return values + torch.cholesky_solve(attention.mT @ missing, factor)
    return values + attention.mT @ torch.cholesky_solve(missing, factor)
