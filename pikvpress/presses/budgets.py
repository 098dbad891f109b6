"""How many tokens each head keeps, given its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from pikvpress.allocators import pooled, pyramid_counts
from pikvpress.gates import Gates
from pikvpress.kernels.compact import highest

STEEPNESS = 0.95  # PyramidKV's β of 20

# What a layer keeps: the highest scores of every head, so many, or any.
Kept = int | torch.Tensor


class Budgets(Protocol):
    """Decides what layers keep, one after the other."""

    def decide(self, layer: int, scores: torch.Tensor, num_kept: int, ratio: float) -> dict[int, Kept]:
        """Return what layers keep about which all is known now.

        Parameters
        ----------
        layer : int
            Whose scores these are.
        scores : torch.Tensor
            Shape (batch, kv_heads, keys).
        num_kept : int
            Tokens a head keeps in the mean.
        ratio : float
            Share removed.

        Returns
        -------
        dict of int to int or torch.Tensor
            By layer: a number, or bool of the shape of its scores.
        """


class Equal:
    """The same number for every head."""

    def decide(self, layer: int, scores: torch.Tensor, num_kept: int, ratio: float) -> dict[int, Kept]:
        """Return what this layer keeps."""
        return {layer: num_kept}


class Fitted:
    """By the error curves of gates."""

    def __init__(self, gates: Gates):
        self._gates = gates
        self._counts: dict[tuple[float, int], torch.Tensor] = {}

    def decide(self, layer: int, scores: torch.Tensor, num_kept: int, ratio: float) -> dict[int, Kept]:
        """Return what this layer keeps."""
        key = (ratio, scores.shape[-1])
        if key not in self._counts:
            self._counts = {key: self._gates.counts(ratio, scores.shape[-1], num_kept)}
        return {layer: highest(scores, self._counts[key][layer].to(scores.device))}


class Pyramid:
    """Less from layer to layer."""

    def __init__(self, layers: Sequence[int]):
        self._layers = list(layers)

    def decide(self, layer: int, scores: torch.Tensor, num_kept: int, ratio: float) -> dict[int, Kept]:
        """Return what this layer keeps."""
        counts = pyramid_counts(len(self._layers), scores.shape[-1], num_kept, STEEPNESS)
        return {layer: counts[self._layers.index(layer)]}


class InLayer:
    """One pool for the heads of a layer, with AdaKV's floor."""

    def decide(self, layer: int, scores: torch.Tensor, num_kept: int, ratio: float) -> dict[int, Kept]:
        """Return what this layer keeps."""
        return {layer: pooled([scores], num_kept)[0]}


class InModel:
    """One pool for the heads of all layers, known behind the last."""

    def __init__(self, layers: Sequence[int]):
        self._layers = list(layers)
        self._scores: dict[int, torch.Tensor] = {}

    def decide(self, layer: int, scores: torch.Tensor, num_kept: int, ratio: float) -> dict[int, Kept]:
        """Return what all layers keep if this is the last, else nothing."""
        if layer == self._layers[0]:
            self._scores.clear()
        self._scores[layer] = scores
        if layer != self._layers[-1]:
            return {}
        kept = pooled(list(self._scores.values()), num_kept)
        decided: dict[int, Kept] = dict(zip(self._scores, kept, strict=True))
        self._scores.clear()
        return decided


KINDS = ("equal", "fitted", "pyramid", "adakv", "global")


def make_budgets(kind: str, gates: Gates | None, layers: Sequence[int]) -> Budgets:
    """Return budgets of one of `KINDS`.

    Parameters
    ----------
    kind : str
        Which.
    gates : Gates, optional
        With error curves, for "fitted".
    layers : sequence of int
        Layers that are compressed.
    """
    if kind == "fitted":
        assert gates is not None
        return Fitted(gates)
    if kind == "pyramid":
        return Pyramid(layers)
    if kind == "adakv":
        return InLayer()
    return InModel(layers) if kind == "global" else Equal()
