"""Budgets that decrease from layer to layer."""

from __future__ import annotations


def pyramid_counts(layers: int, num_keys: int, num_kept: int, steepness: float) -> list[int]:
    """Return the tokens that each layer keeps, an arithmetic sequence C_i = C_1 - (i - 1) · d.

    Lower layers attend broadly and keep more. PyramidKV (https://arxiv.org/abs/2406.02069) keeps 1/β of the mean in the
    last layer with β = 20, which is a steepness of 1 - 1/β.

    Parameters
    ----------
    layers : int
        Number of layers.
    num_keys : int
        Number of keys per head, which no layer exceeds: what does not fit into the first layers goes to later ones.
    num_kept : int
        Mean number of kept tokens over the layers.
    steepness : float
        C_1 = (1 + steepness) · num_kept and C_L = (1 - steepness) · num_kept, in [0, 1).

    Returns
    -------
    list of int
        Tokens of each layer, at least 1; their sum is layers · num_kept.

    Raises
    ------
    ValueError
        If the steepness is out of range.
    """
    if not 0 <= steepness < 1:
        raise ValueError(f"steepness must be in [0, 1), got {steepness}")
    middle = (layers - 1) / 2
    wanted = [num_kept * (1 + steepness * (middle - i) / max(middle, 0.5)) for i in range(layers)]
    counts, left = [], layers * num_kept
    for index, share in enumerate(wanted):
        after = layers - index - 1
        ahead = sum(wanted[index:])
        count = round(left * share / ahead)
        counts.append(max(1, left - after * num_keys, min(count, num_keys, left - after)))
        left -= counts[-1]
    return counts
