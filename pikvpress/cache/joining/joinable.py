"""The part of a PiKVCache that joins contexts which were read alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from pikvpress.cache.joining.documents import Documents
from pikvpress.cache.joining.join import join_into
from pikvpress.cache.joining.refusals import check_caches, check_model

if TYPE_CHECKING:
    from typing_extensions import Self

SEAM = 8


class Joinable:
    """A cache that can be made of others; see `PiKVCache`."""

    if TYPE_CHECKING:
        take: Any

    @classmethod
    def join(
        cls,
        caches: Sequence[Self],
        model: PreTrainedModel,
        input_ids: Sequence[torch.Tensor],
        *,
        head: int = 0,
        seam: int = SEAM,
    ) -> Self:
        """Return one cache of documents that were each read, and perhaps compressed, alone.

        Keys of later documents are rotated to the positions behind the documents before. The first `seam` tokens of
        each are read anew, with all documents before in sight, and their old entries are left out: alone, a document's
        first tokens were its attention sinks, and would draw attention away from everything else (EPIC,
        https://arxiv.org/abs/2410.15332). All other entries stay what they were when the document was read alone. What
        is read anew is stored exactly; everything else in its codec, keys after the first document encoded once more.

        The result is an ordinary compressed cache of `joined_ids(input_ids, head=head)`; later entries are stored as in
        the first of the caches. The caches do not change, and share the first document's memory with the result.

        Parameters
        ----------
        caches : sequence of PiKVCache
            One for each document, of one row and without padding, in the order in which they are joined.
        model : PreTrainedModel
            The model that has read them. All layers must have rotary positions, or none, and see the whole text.
        input_ids : sequence of torch.Tensor
            Token ids of each document as it was read, shape (1, tokens).
        head : int, default=0
            Number of tokens with which all documents begin, such as those of a system prompt. The joined cache holds
            them once.
        seam : int, default=8
            Tokens of each later document that are read anew. Where entries were removed, as many are read alone as
            well, to find out which entries belong to them. 0: none; documents then keep their own sinks.

        Raises
        ------
        TypeError, ValueError
            For caches, documents or models that cannot be joined; the message says why.

        Examples
        --------
        >>> cache = PiKVCache.join([first, second], model, [first_ids, second_ids])
        >>> ids = torch.cat([joined_ids([first_ids, second_ids]), question_ids], dim=1)
        >>> model.generate(ids, past_key_values=cache)
        """
        documents = Documents(tuple(input_ids), head, seam)
        for number, cache in enumerate(caches):
            if not isinstance(cache, Joinable):
                raise TypeError(f"cache {number} is a {type(cache).__name__}: read documents into PiKVCaches")
        check_model(model)
        check_caches(caches, model, documents)
        joined = cls()
        join_into(joined, caches, model, documents)
        return joined
