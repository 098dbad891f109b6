"""The rotation of a cache's recent keys, which schedulers undo to see keys as they were before it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch

from pikvpress import models
from pikvpress.model_digest import model_of


@dataclass
class Angles:
    """Cosines and sines of the latest positions, which all layers of a model share.

    Parameters
    ----------
    first : int
        Index of the first entry they are known for.
    cos, sin : torch.Tensor, optional
        Shape (1, entries, rotary_dim).
    """

    first: int = 0
    cos: torch.Tensor | None = None
    sin: torch.Tensor | None = None

    @property
    def last(self) -> int:
        """Index after the last entry."""
        return self.first + (0 if self.cos is None else self.cos.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 0 if self.cos is None or self.sin is None else self.cos.nbytes + self.sin.nbytes

    def copied(self) -> Angles:
        """Return a copy that can change independently; tensors are shared."""
        return Angles(self.first, self.cos, self.sin)

    def add(self, first: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Add those of new entries, from an index on."""
        if self.cos is None or self.sin is None or first != self.last:
            self.first, self.cos, self.sin = first, cos, sin
            return
        known = self.cos.to(cos.device), self.sin.to(sin.device)  # the cache may have been moved
        self.cos, self.sin = (torch.cat(pair, dim=1) for pair in zip(known, (cos, sin), strict=True))

    def forget(self, first: int) -> None:
        """Forget entries before an index."""
        if self.cos is not None and self.sin is not None and first > self.first:
            skipped = min(first, self.last) - self.first
            self.first += skipped
            self.cos, self.sin = self.cos[:, skipped:].clone(), self.sin[:, skipped:].clone()

    def between(self, first: int, last: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return those of the entries that are known of these, which are the latest of them, on a layer's device."""
        assert self.cos is not None and self.sin is not None
        these = slice(max(0, first - self.first), last - self.first)
        return self.cos[:, these].to(device), self.sin[:, these].to(device)

    def crop(self, last: int) -> None:
        """Forget entries from an index on."""
        if self.cos is not None and self.sin is not None and last < self.last:
            count = max(0, last - self.first)
            self.cos, self.sin = self.cos[:, :count].clone(), self.sin[:, :count].clone()


# The rotary embedding of the model that an attention module belongs to, which takes a while to find.
_ROTARY: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()


def rotation_at(
    module: models.Attention, like: torch.Tensor, positions: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosines and sines by which a model rotates keys, for versions of transformers that tell caches none.

    Parameters
    ----------
    module : Attention
        The module that reads them.
    like : torch.Tensor
        Of their data type and on their device.
    positions : torch.Tensor, optional
        Their positions, shape (batch, tokens), as the model passes them to attention functions.

    Returns
    -------
    (torch.Tensor, torch.Tensor)
        Shape (1, tokens, rotary_dim).

    Raises
    ------
    ValueError
        If the model passes no positions, or there is not exactly one model with this module.
    """
    if positions is None:
        raise ValueError(
            "this model does not tell its cache how keys are rotated, which the scheduler takes off again: choose a "
            "scheduler that only counts attention, such as 'h2o'"
        )
    known = _ROTARY.get(module)
    rotary = None if known is None else known()
    if rotary is None:
        rotary = models.language_model(model_of(module)).rotary_emb
        _ROTARY[module] = weakref.ref(rotary)
    cos, sin = rotary(like, positions[:1])
    return cos, sin
