"""How many entries each head keeps, given its scores: what all budgets are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from pikvpress.budgets.decision import Decision, ScoredLayer
from pikvpress.gates import Gates


@dataclass(frozen=True)
class ModelShape:
    """What there is to share a budget out over.

    Parameters
    ----------
    layers, heads, head_dim : int
        Of the model, KV heads counted.
    dtype : torch.dtype
        Of keys and values.
    compressed : tuple of int
        The layers that are compressed.
    """

    layers: int
    heads: int
    head_dim: int
    dtype: torch.dtype
    compressed: tuple[int, ...]


class Budget:
    """Decide what layers keep, one after the other.

    Parameters
    ----------
    gates : Gates, optional
        Those of the model, if there are any.
    shape : ModelShape, optional
        Of the model; None inside wrappers that do not pass the model on.

    Attributes
    ----------
    needs_curves : str
        Which field of `Gates` it is drawn from, or "".
    needs_shape : bool
        Whether it must know the model.
    leaves_rows : bool
        Whether all heads of a layer keep the same number of entries, which another press can shorten again.
    uneven_layers : bool
        Whether a cache of rows is left with layers of different lengths.
    waits : bool
        Whether it decides only after the last layer.
    """

    needs_curves: ClassVar[str] = ""
    needs_shape: ClassVar[bool] = False
    leaves_rows: ClassVar[bool] = False
    uneven_layers: ClassVar[bool] = False
    waits: ClassVar[bool] = False

    def __init__(self, gates: Gates | None = None, shape: ModelShape | None = None):
        pass

    @classmethod
    def fits(cls, gates: Gates | None) -> bool:
        """Return whether gates carry the curves that this budget is drawn from."""
        return not cls.needs_curves or (gates is not None and getattr(gates, cls.needs_curves) is not None)

    def share_removed(self, ratio: float, num_keys: int) -> float:
        """Return the share of the tokens that is removed at a ratio, by which experts are compared."""
        return ratio

    def decide(self, layer: ScoredLayer, ratio: float) -> Sequence[Decision]:
        """Return what is decided now that this layer has been scored: often one decision, for this layer.

        Parameters
        ----------
        layer : ScoredLayer
            The latest.
        ratio : float
            Share to remove.
        """
        raise NotImplementedError
