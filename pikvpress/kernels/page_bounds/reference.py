"""The definition of page bounds, in plain torch (Quest, https://arxiv.org/abs/2406.10774)."""

from __future__ import annotations

import torch


def page_bounds(keys: torch.Tensor, page: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the minimum and maximum of each channel over the keys of each page.

    Parameters
    ----------
    keys : torch.Tensor
        Keys as they are cached, shape (B, H, T, D), without NaN.
    page : int
        Number of keys per page, at least 1; the last page may hold fewer.

    Returns
    -------
    (torch.Tensor, torch.Tensor)
        Lowest and highest numbers, in the keys' type, shape (B, H, ⌈T / page⌉, D).

    Raises
    ------
    ValueError
        If `page` is less than 1.
    """
    check_page(page)
    missing = -keys.shape[2] % page
    if missing:  # repeating the last key changes no bound
        keys = torch.cat([keys, keys[:, :, -1:].expand(-1, -1, missing, -1)], dim=2)
    pages = keys.unflatten(2, (keys.shape[2] // page, page))
    return pages.amin(dim=3), pages.amax(dim=3)


def page_scores(queries: torch.Tensor, lowest: torch.Tensor, highest: torch.Tensor) -> torch.Tensor:
    """Return an upper bound of the product of a query and any key of a page, the largest over a group's query heads.

    A query's bound is Σ_d max(q_d · lowest_d, q_d · highest_d) = q⁺ · highest + q⁻ · lowest, with q⁺ and q⁻ its
    positive and negative parts.

    Parameters
    ----------
    queries : torch.Tensor
        Rotated queries, shape (B, H * G, Q, D).
    lowest, highest : torch.Tensor
        Bounds as returned by `page_bounds`, shape (B, H, P, D).

    Returns
    -------
    torch.Tensor
        float32 (float64 for float64 input), shape (B, H, Q, P).

    Raises
    ------
    ValueError
        If shapes or types do not match.
    """
    check_pages(queries, lowest, highest)
    wide = torch.promote_types(queries.dtype, torch.float32)
    down, up = lowest.to(wide).transpose(2, 3), highest.to(wide).transpose(2, 3)
    per_head = queries.to(wide).unflatten(1, (lowest.shape[1], -1))
    largest = None
    for member in range(per_head.shape[2]):  # one query head of each group at a time, to limit memory
        query = per_head[:, :, member]
        bound = query.clamp(min=0) @ up + query.clamp(max=0) @ down
        largest = bound if largest is None else torch.maximum(largest, bound)
    assert largest is not None
    return largest


def select_pages(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the indices of the pages with the highest scores, in ascending order.

    Parameters
    ----------
    scores : torch.Tensor
        Scores of pages, shape (..., P); pages with the highest are read.
    count : int
        Number of pages to select, 1 <= count <= P.

    Returns
    -------
    torch.Tensor
        int64, shape (..., count).

    Raises
    ------
    ValueError
        If there are fewer pages than that, or `count` is less than 1.
    """
    if not 1 <= count <= scores.shape[-1]:
        raise ValueError(f"cannot select {count} of {scores.shape[-1]} pages: select at least 1 and at most all")
    return scores.topk(count, dim=-1, sorted=False).indices.sort(dim=-1).values


def check_page(page: int) -> None:
    """Raise a ``ValueError`` unless a page holds at least one key."""
    if page < 1:
        raise ValueError(f"a page of {page} keys has no bounds: pass at least 1, such as Quest's 16")


def check_pages(queries: torch.Tensor, lowest: torch.Tensor, highest: torch.Tensor) -> None:
    """Raise a ``ValueError`` unless queries and bounds match."""
    found = f"queries are {tuple(queries.shape)}, bounds {tuple(lowest.shape)} and {tuple(highest.shape)}"
    if queries.dim() != 4 or lowest.dim() != 4 or lowest.shape != highest.shape:
        raise ValueError(f"{found}: pass queries (B, H * G, Q, D) and both bounds (B, H, P, D)")
    if queries.shape[0] != lowest.shape[0] or queries.shape[3] != lowest.shape[3]:
        raise ValueError(f"{found}: pass all with the same batch and head size")
    if queries.shape[1] == 0 or lowest.shape[1] == 0 or queries.shape[1] % lowest.shape[1]:
        raise ValueError(f"{found}: pass the same number of query heads for each KV head, at least one")
    if not queries.dtype == lowest.dtype == highest.dtype:
        raise ValueError(
            f"queries are {queries.dtype}, bounds {lowest.dtype} and {highest.dtype}: convert them to one type"
        )
