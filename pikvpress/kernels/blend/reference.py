"""The definition of blending: ranks per head, their weighted sum, and its conversion back to a mass."""

from __future__ import annotations

import torch


def ranks(scores: torch.Tensor) -> torch.Tensor:
    """Return each score's rank within its head, from 0 (lowest) to 1 (highest); equal scores share their mean rank.

    Parameters
    ----------
    scores : torch.Tensor
        Any scale, shape (..., T). Must hold no NaN.

    Returns
    -------
    torch.Tensor
        float32, shape (..., T).
    """
    length = scores.shape[-1]
    ordered, order = scores.contiguous().sort(dim=-1)
    begins = torch.ones_like(ordered, dtype=torch.bool)  # where a run of equal scores begins
    begins[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    first = begins.flatten().nonzero().squeeze(1)
    lengths = first.diff(append=first.new_tensor([ordered.numel()]))
    ranked = (2 * (first % max(1, length)) + lengths - 1).float() / (2 * max(1, length - 1))
    ranked = ranked.repeat_interleave(lengths, output_size=ordered.numel()).view(ordered.shape)
    return torch.empty_like(ranked).scatter_(-1, order, ranked)


def blend(ranked: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of the experts' ranks.

    Parameters
    ----------
    ranked : torch.Tensor
        Ranks of each expert's scores, shape (B, H, E, T). On a GPU, the ranks of an expert with weight 0 are not read.
    weights : torch.Tensor
        Gate weights, shape (B, H, E), rows summing to 1.

    Returns
    -------
    torch.Tensor
        float32 (float64 for float64 input) in [0, 1], shape (B, H, T).
    """
    wide = torch.promote_types(ranked.dtype, torch.float32)
    return (weights.to(wide).unsqueeze(-2) @ ranked.to(wide)).squeeze(-2)


def blended_ranks(scores: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of the experts' ranks, for when the ranks themselves are not needed.

    On a GPU, the experts are ranked one after the other and no ranks are kept, so this takes the memory of one expert.

    Parameters
    ----------
    scores : torch.Tensor
        Each expert's scores, any scale, shape (B, H, E, T). Must hold no NaN.
    weights : torch.Tensor
        Gate weights, shape (B, H, E), rows summing to 1.

    Returns
    -------
    torch.Tensor
        float32 in [0, 1], shape (B, H, T); keys that every expert of the head ranks equally get the same number.
    """
    return blend(ranks(scores), weights)


def transport(order: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """Give a blended order the scale of a mass: the n-th best key gets the n-th largest value.

    Ranks have the same distribution in every head, so comparing them between heads says nothing. After this quantile
    transport, the order within a head is that of `order` and the values are those of `mass`, such as the head's
    attention mass: steep where a few keys hold most of it, flat where it is spread out.

    Parameters
    ----------
    order : torch.Tensor
        What to keep first, shape (B, H, T), higher = keep.
    mass : torch.Tensor
        The values to assign, such as the keys' shares of attention, in any order, shape (B, H, T).

    Returns
    -------
    torch.Tensor
        float32, shape (B, H, T); the sum of each row is that of `mass` to within 1e-6.
    """
    length = mass.shape[-1]
    position = order.argsort(dim=-1, stable=True)
    ascending = mass.float().sort(dim=-1).values
    # Masses that underflow to 0 would tie and lose their order; a ramp far below any real mass preserves it.
    ramp = torch.arange(length, device=mass.device, dtype=torch.float32) * (1e-6 / length**2)
    return torch.empty_like(ascending).scatter_(-1, position, ascending + ramp)
