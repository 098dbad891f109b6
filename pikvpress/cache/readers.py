"""Who reads what: which layer of a PiKVCache an attention module has read last, and whose masks wait meanwhile."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from pikvpress import models

if TYPE_CHECKING:
    from pikvpress.cache.compressible import CompressibleLayer


class Readers:
    """What is known of all models and caches that are alive; it keeps none of them so.

    A press leaves its mask on the attention module; it belongs to the entries that the module has read last. So before
    others are read, a PiKVCache's layer is given its mask; that of another cache is laid aside until such a cache is
    read again; and a prompt begins without one.
    """

    def __init__(self) -> None:
        # Attention functions are given keys and no cache. The keys are looked up by identity: an attribute on the
        # tensor would be copied and written to files with it.
        self._given: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._layers: weakref.WeakKeyDictionary[Any, weakref.ref[CompressibleLayer]] = weakref.WeakKeyDictionary()
        self._modules: weakref.WeakKeyDictionary[CompressibleLayer, weakref.ref[Any]] = weakref.WeakKeyDictionary()
        self._aside: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def give(self, keys: torch.Tensor, layer: CompressibleLayer | None) -> None:
        """Remember whose dense keys a cache has given out; None for a layer that stands in for one of ours."""
        self._given[keys] = None if layer is None else weakref.ref(layer)

    def owner(self, keys: torch.Tensor) -> CompressibleLayer | None:
        """Return the layer that gave these keys out, None if it was another cache's or is gone."""
        return _alive(self._given.get(keys))

    def stands_in(self, keys: torch.Tensor) -> bool:
        """Return whether a layer gave these keys out that stands in for one of ours."""
        return keys in self._given and self._given[keys] is None

    def forget(self, layer: CompressibleLayer) -> None:
        """Forget who has read a layer."""
        self._modules.pop(layer, None)

    def module_of(self, layer: CompressibleLayer) -> models.Attention | None:
        """Return the module that has read a layer, unless it has turned to another since."""
        reference = self._modules.get(layer)
        return None if reference is None else reference()

    def mask_of(self, layer: CompressibleLayer) -> tuple[torch.Tensor, ...] | None:
        """Return the entries that a press has masked since a layer was read last, or None."""
        mask = getattr(self.module_of(layer), "masked_key_indices", None)
        return None if mask is None or len(mask[0]) == 0 else tuple(mask)

    def forget_mask(self, layer: CompressibleLayer) -> None:
        """Take the mask off the module that has read a layer."""
        module = self.module_of(layer)
        if module is not None:
            module.masked_key_indices = None

    def turn_to(self, module: models.Attention, layer: CompressibleLayer | None, prompt: bool) -> None:
        """Leave a module the mask of what it is about to read, and no other.

        Parameters
        ----------
        module : Attention
            Reads.
        layer : PiKVLayer, optional
            Whose entries; None for those of another cache.
        prompt : bool
            Whether these are the first entries.
        """
        if not models.is_sliding(module):  # a PiKVLayer of such a module takes no mask: kvpress's fake keys serve it
            self._hand_over(module, layer)
        if prompt:
            self._aside.pop(module, None)
            module.masked_key_indices = None

    def read(self, module: models.Attention, layer: CompressibleLayer) -> None:
        """Remember that a module has read the dense entries of a layer: masks on it are the layer's from now on."""
        self._modules[layer] = weakref.ref(module)

    def _hand_over(self, module: models.Attention, layer: CompressibleLayer | None) -> None:
        reference = self._layers.pop(module, None)
        other = _alive(reference)
        if reference is not None and (other is None or other is not layer):
            if other is not None:
                self._leave(module, other)
            module.masked_key_indices = None
        if layer is None:
            if module in self._aside:
                module.masked_key_indices = self._aside.pop(module)
            return
        if reference is None and getattr(module, "masked_key_indices", None) is not None:
            self._aside[module], module.masked_key_indices = module.masked_key_indices, None
        self._layers[module] = weakref.ref(layer)

    def _leave(self, module: models.Attention, layer: CompressibleLayer) -> None:
        layer.left()
        if self.module_of(layer) is module:
            del self._modules[layer]


def _alive(reference: weakref.ref[CompressibleLayer] | None) -> CompressibleLayer | None:
    return None if reference is None else reference()


READERS = Readers()
