"""Neurons that are active on the same tokens become one expert."""

from __future__ import annotations

import torch

ACTIVE = 0.1  # share of the neurons that count as active on a token
ROUNDS = 12


def active_on(contributions: torch.Tensor) -> torch.Tensor:
    """Return on which tokens each neuron is among the tenth that contributes most, as in CMoE (arXiv 2502.04416).

    Unlike in MLPs with ReLU, no contribution is exactly 0, so the largest count as active. Of three MLPs of SmolLM2
    that were compared, clusters of these profiles left smaller errors in two, and larger ones in the first layer, than
    clusters of the contributions themselves; clusters of input weights (MoEfication, arXiv 2110.01786) were never best.

    Parameters
    ----------
    contributions : torch.Tensor
        Norm of what each neuron adds to the MLP's output, shape (tokens, neurons).

    Returns
    -------
    torch.Tensor
        0 or 1, float32, shape (neurons, tokens).
    """
    count = max(1, int(ACTIVE * contributions.shape[1]))
    least = contributions.topk(count, dim=1).values[:, -1:]
    return (contributions >= least).float().T.contiguous()


def balanced_clusters(profiles: torch.Tensor, clusters: int, seed: int = 0) -> torch.Tensor:
    """Return clusters of equal size, by k-means whose assignment respects the size.

    Parameters
    ----------
    profiles : torch.Tensor
        What is clustered, shape (items, dimensions); the number of items is a multiple of `clusters`.
    clusters : int
        Number of clusters.
    seed : int, default=0
        Random seed of the first centres, which are drawn as in k-means++.

    Returns
    -------
    torch.Tensor
        Indices of the items of each cluster, ascending, int64, shape (clusters, items / clusters).

    Raises
    ------
    ValueError
        If the items cannot be divided equally.
    """
    if len(profiles) % clusters:
        raise ValueError(f"{len(profiles)} items cannot be divided into {clusters} equal clusters: choose a divisor")
    centres, best, least = _first_centres(profiles, clusters, seed), torch.empty(0), float("inf")
    for _ in range(ROUNDS):
        distances = torch.cdist(profiles, centres).square()
        assigned = _assigned(distances)
        total = float(distances.gather(1, assigned.unsqueeze(1)).sum())
        if total >= least:  # an assignment with limits need not improve forever
            break
        best, least = assigned, total
        centres = torch.stack([profiles[assigned == cluster].mean(dim=0) for cluster in range(clusters)])
    return torch.stack([(best == cluster).nonzero().squeeze(1) for cluster in range(clusters)])


def _first_centres(profiles: torch.Tensor, clusters: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = profiles[torch.randint(len(profiles), (1,), generator=generator)]
    while len(centres) < clusters:
        apart = torch.cdist(profiles, centres).min(dim=1).values.square() + 1e-9  # equal profiles are possible
        centres = torch.cat([centres, profiles[torch.multinomial(apart, 1, generator=generator)]])
    return centres


def _assigned(distances: torch.Tensor) -> torch.Tensor:
    """Return a cluster for each item: the nearest one with room, which takes the nearest items."""
    items, clusters = distances.shape
    room, assigned = [items // clusters] * clusters, torch.full((items,), -1)
    distances = distances.clone()
    while len(free := (assigned < 0).nonzero().squeeze(1)):
        wanted = distances[free].argmin(dim=1)
        for cluster in range(clusters):
            candidates = free[wanted == cluster]
            taken = candidates[distances[candidates, cluster].argsort(stable=True)][: room[cluster]]
            assigned[taken] = cluster
            room[cluster] -= len(taken)
            if not room[cluster]:
                distances[:, cluster] = torch.inf
    return assigned
