"""How many entries each head keeps, given its scores: the base class of budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import torch

from pikvpress.budgets.decision import Decision, ScoredLayer
from pikvpress.gates import Gates

T = TypeVar("T")

CONTEXTS = 64  # for which is kept what depends on their length: every layer asks for that of each row of a batch


class KeptByContext(Generic[T]):
    """What a budget computes for a ratio and a length of contexts, kept for the latest of them.

    Unlike `functools.lru_cache` it can be pickled, as presses must be.

    Parameters
    ----------
    compute : callable
        A method that takes a ratio and a number of keys.
    """

    def __init__(self, compute: Callable[[float, int], T]):
        self._compute = compute
        self._known: dict[tuple[float, int], T] = {}

    def __call__(self, ratio: float, num_keys: int) -> T:
        """Return what is computed for this ratio and length."""
        if (ratio, num_keys) not in self._known:
            if len(self._known) == CONTEXTS:
                del self._known[next(iter(self._known))]
            self._known[ratio, num_keys] = self._compute(ratio, num_keys)
        return self._known[ratio, num_keys]


@dataclass(frozen=True)
class ModelShape:
    """The part of a model's shape that determines how a budget is divided.

    Parameters
    ----------
    layers, heads, head_dim : int
        Numbers of layers and KV heads of the whole model, and the size of a head.
    dtype : torch.dtype
        Data type of keys and values.
    compressed : tuple of int
        Indices of the layers that are compressed.
    """

    layers: int
    heads: int
    head_dim: int
    dtype: torch.dtype
    compressed: tuple[int, ...]


class Budget:
    """Decide what each layer keeps, layer by layer.

    Parameters
    ----------
    gates : Gates, optional
        The model's gates, if there are any.
    shape : ModelShape, optional
        The model's shape; None inside wrappers that do not pass the model on.

    Attributes
    ----------
    needs_curves : str
        The field of `Gates` that the budget is computed from, or "".
    needs_shape : bool
        Whether the budget needs the shape of the model.
    leaves_rows : bool
        Whether all heads of a layer keep the same number of entries, so that another press can compress them again.
    uneven_layers : bool
        Whether a cache of rows is left with layers of different lengths.
    waits : bool
        Whether the budget is decided only after the last layer.
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
        """Return whether gates have the curves that this budget needs."""
        return not cls.needs_curves or (gates is not None and getattr(gates, cls.needs_curves) is not None)

    def share_removed(self, ratio: float, num_keys: int) -> float:
        """Return the share of the tokens that is removed at a ratio; experts are compared at this share."""
        return ratio

    def decide(self, layer: ScoredLayer, ratio: float) -> Sequence[Decision]:
        """Return the decisions that can be made once this layer has been scored: usually one, for this layer.

        Parameters
        ----------
        layer : ScoredLayer
            The latest layer.
        ratio : float
            Share of the tokens or bytes to remove.
        """
        raise NotImplementedError
