"""Which entries of a compressed document belong to its first tokens.

A cache does not record the positions of what it keeps, and presses that shorten all heads alike may leave entries in
any order. The keys of the first tokens depend on no later token, so that reading only these tokens gives their keys
again, and the entries that belong to them are the ones that equal these keys up to the error of their codec.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from pikvpress import models
from pikvpress.cache.joining.documents import Documents

RATIO = 0.7  # a match is at most this much as far away as the next entry: in 4 bits and more, all are found


def first_keys(model: PreTrainedModel, documents: Documents, number: int, head: DynamicCache) -> list[torch.Tensor]:
    """Return the keys of the head and of the tokens that will be read anew, as a document read alone has them.

    Parameters
    ----------
    model : PreTrainedModel
        The model.
    documents : Documents
        The documents.
    number : int
        Which one.
    head : DynamicCache
        Holds the head afterwards, so that other documents need not read it again; empty the first time.

    Returns
    -------
    list of torch.Tensor
        For each layer, shape (kv_heads, tokens, head_dim).
    """
    known, last = head.get_seq_length(), documents.head + documents.again(number)
    if known < last:
        read(model, documents.ids[number][:, known:last], head)
    keys: list[Any] = [layer.keys for layer in head.layers]
    found = [states[0, :, :last] for states in keys]
    if head.get_seq_length() > documents.head:  # crop(0) removes nothing or everything, depending on transformers
        head.crop(documents.head - head.get_seq_length())
    return found


def read(model: PreTrainedModel, ids: torch.Tensor, cache: Any) -> None:
    """Read tokens after those in a cache."""
    ids = ids.to(model.device)
    start = cache.get_seq_length()
    positions = torch.arange(start, start + ids.shape[1], device=ids.device).unsqueeze(0)
    models.language_model(model)(input_ids=ids, position_ids=positions, use_cache=True, **{models.CACHE: cache})


def belonging(held: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return which entries of a head belong to tokens with given keys.

    An entry does if it and the key are nearest to each other and no other entry is nearly as close to the key: the
    ratio test of D. Lowe (https://doi.org/10.1023/B:VISI.0000029664.99615.94). A single entry is compared with the
    length of the key instead.

    Parameters
    ----------
    held : torch.Tensor
        Keys as they are stored, shape (entries, head_dim).
    keys : torch.Tensor
        Keys of some tokens, shape (tokens, head_dim).

    Returns
    -------
    torch.Tensor
        bool, shape (entries,).
    """
    found = torch.zeros(len(held), dtype=torch.bool, device=held.device)
    if len(held) == 0 or len(keys) == 0:
        return found
    distances = torch.cdist(held.float(), keys.float())
    closest = distances.topk(min(2, len(held)), dim=0, largest=False)
    following = closest.values[1] if len(held) > 1 else keys.float().norm(dim=1)
    mutual = distances.argmin(dim=1)[closest.indices[0]] == torch.arange(len(keys), device=keys.device)
    found[closest.indices[0][mutual & (closest.values[0] <= RATIO * following)]] = True
    return found


def dropped(
    heads: list[torch.Tensor], keys: torch.Tensor | None, documents: Documents, number: int
) -> Iterator[torch.Tensor]:
    """Yield which entries of each head are replaced by others, bool, shape (entries,).

    Parameters
    ----------
    heads : list of torch.Tensor
        All keys that are held of each head, shape (entries, head_dim).
    keys : torch.Tensor, optional
        As `first_keys` returns them for the layer; None if nothing or everything is replaced, or all heads are
        complete, and therefore in order.
    documents : Documents
        The documents.
    number : int
        Which one this is.
    """
    last, tokens = documents.head + documents.again(number), documents.ids[number].shape[1]
    for index, held in enumerate(heads):
        if last in (0, tokens):
            yield torch.full((len(held),), last > 0, dtype=torch.bool, device=held.device)
        elif len(held) == tokens:
            yield torch.arange(len(held), device=held.device) < last
        else:
            assert keys is not None
            yield belonging(held, keys[index])
