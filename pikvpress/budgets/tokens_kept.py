"""How many tokens a ratio keeps."""

from __future__ import annotations


def tokens_kept(num_keys: int, ratio: float) -> int:
    """Return how many tokens a compression ratio keeps, as kvpress's ``compute_n_kept`` does.

    Parameters
    ----------
    num_keys : int
        Number of tokens.
    ratio : float
        Share of them that is removed.

    Returns
    -------
    int
        Rounded down, but at least 1; 0 if the ratio is 1.
    """
    return 0 if ratio >= 1 else max(1, int(num_keys * (1 - ratio)))
