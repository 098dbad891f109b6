"""Pages: bounds of their keys, and upper bounds of products with them."""

from __future__ import annotations

import pytest
import torch

from pikvpress.kernels.page_bounds import page_bounds, page_scores, select_pages


def drawn(tokens=23):
    torch.manual_seed(0)
    return torch.randn(2, 6, 5, 8), torch.randn(2, 3, tokens, 8)


@pytest.mark.parametrize("page", [1, 4, 23, 40])
def test_bounds_are_the_extremes_of_each_page(page):
    _, keys = drawn()
    lowest, highest = page_bounds(keys, page)
    assert lowest.shape == highest.shape == (2, 3, -(-23 // page), 8)
    for number in range(lowest.shape[2]):
        rows = keys[:, :, page * number : page * (number + 1)]
        assert torch.equal(lowest[:, :, number], torch.stack(rows.unbind(2)).min(dim=0).values)
        assert torch.equal(highest[:, :, number], torch.stack(rows.unbind(2)).max(dim=0).values)


def test_scores_are_the_sums_of_the_larger_products():
    queries, keys = drawn()
    lowest, highest = page_bounds(keys, 4)
    found = page_scores(queries, lowest, highest)
    assert found.shape == (2, 3, 5, 6)
    for head in range(3):
        bounds = []
        for member in (2 * head, 2 * head + 1):
            query = queries[:, member, :, None]
            products = [query * bound[:, head, None] for bound in (lowest, highest)]
            bounds.append(torch.maximum(*products).sum(dim=-1))
        torch.testing.assert_close(found[:, head], torch.maximum(*bounds))


def test_no_product_exceeds_the_score_of_its_page():
    queries, keys = drawn(tokens=24)
    products = queries @ keys.repeat_interleave(2, dim=1).mT
    largest = products.unflatten(1, (3, 2)).unflatten(-1, (6, 4)).amax(dim=(2, -1))
    assert (largest <= page_scores(queries, *page_bounds(keys, 4)) + 1e-5).all()


def test_a_page_of_one_key_scores_its_product():
    queries, keys = drawn()
    products = (queries @ keys.repeat_interleave(2, dim=1).mT).unflatten(1, (3, 2)).amax(dim=2)
    torch.testing.assert_close(page_scores(queries, *page_bounds(keys, 1)), products)


def test_half_precision_bounds_are_exact_and_scores_float32():
    queries, keys = (tensor.bfloat16() for tensor in drawn())
    lowest, highest = page_bounds(keys, 16)
    assert lowest.dtype == highest.dtype == torch.bfloat16
    assert page_scores(queries, lowest, highest).dtype == torch.float32


def test_the_highest_pages_come_in_order():
    assert select_pages(torch.tensor([[3.0, 9.0, 1.0, 4.0], [0.0, 0.5, 2.0, 1.0]]), 2).tolist() == [[1, 3], [2, 3]]


def test_what_does_not_fit_is_refused():
    queries, keys = drawn()
    lowest, highest = page_bounds(keys, 4)
    with pytest.raises(ValueError, match="a page of 0 keys"):
        page_bounds(keys, 0)
    for count in (0, 7):
        with pytest.raises(ValueError, match=f"cannot select {count} of 6 pages"):
            select_pages(torch.rand(6), count)
    with pytest.raises(ValueError, match=r"both bounds \(B, H, P, D\)"):
        page_scores(queries, lowest, highest[:, :, 1:])
    with pytest.raises(ValueError, match="same batch and head size"):
        page_scores(queries[..., 1:], lowest, highest)
    with pytest.raises(ValueError, match="same number of query heads for each KV head"):
        page_scores(queries[:, :4], lowest, highest)
    with pytest.raises(ValueError, match="convert them to one type"):
        page_scores(queries.half(), lowest, highest)
