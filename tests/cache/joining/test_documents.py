"""Token ids of documents that are joined."""

from __future__ import annotations

import pytest
import torch

from pikvpress.cache import joined_ids
from pikvpress.cache.joining.documents import Documents

FIRST, SECOND, THIRD = (torch.tensor([numbers]) for numbers in ([1, 2, 3, 4, 5], [1, 2, 6], [1, 2, 7, 8]))


def test_places_follow_from_the_tokens_that_documents_have_for_themselves():
    documents = Documents((FIRST, SECOND, THIRD), head=2, seam=2)
    assert [documents.start(number) for number in range(3)] == [2, 5, 6]
    assert [documents.own(number) for number in range(3)] == [3, 1, 2]
    assert [documents.again(number) for number in range(3)] == [0, 1, 2]


def test_the_head_is_held_once():
    assert joined_ids([FIRST, SECOND, THIRD], head=2).tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert joined_ids([SECOND, THIRD]).tolist() == [[1, 2, 6, 1, 2, 7, 8]]


@pytest.mark.parametrize(
    ("ids", "settings", "message"),
    [
        ([], {}, "nothing to join"),
        ([FIRST, torch.cat([SECOND, SECOND])], {}, "document 1 must be one sequence"),
        ([FIRST, SECOND], {"head": 3}, "document 1 has 3 tokens, and head=3"),
        ([FIRST, THIRD + 1], {"head": 2}, "document 1 does not begin with the same 2 tokens"),
        ([FIRST], {"seam": -1}, "seam is a number of tokens and must be at least 0"),
    ],
)
def test_bad_documents_are_refused(ids, settings, message):
    with pytest.raises(ValueError, match=message):
        Documents(tuple(ids), **{"head": 0, "seam": 8} | settings)


def test_what_are_no_token_ids_is_refused():
    with pytest.raises(TypeError, match="document 0 must be a tensor of token ids"):
        Documents(([1, 2, 3],), 0, 8)
    with pytest.raises(TypeError, match=r"head must be a number of tokens, got 1\.5"):
        Documents((FIRST,), 1.5, 8)
