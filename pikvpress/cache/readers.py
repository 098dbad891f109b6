"""Which layer of a PiKVCache each attention module has read last, and which masks are set aside for other caches."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from pikvpress import models

if TYPE_CHECKING:
    from pikvpress.cache.compressible import CompressibleLayer


class Readers:
    """The readers of all live models and caches, stored as weak references.

    A press stores its mask on the attention module; the mask belongs to the entries that the module has read last.
    Before other entries are read, the mask is handed to the PiKVCache layer that it belongs to. A mask of another cache
    is set aside until such a cache is read again, and a prompt begins without a mask.
    """

    def __init__(self) -> None:
        # Attention functions receive keys but no cache. The keys are looked up by identity: an attribute on the tensor
        # would be copied and saved with it.
        self._given: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._layers: weakref.WeakKeyDictionary[Any, weakref.ref[CompressibleLayer]] = weakref.WeakKeyDictionary()
        self._modules: weakref.WeakKeyDictionary[CompressibleLayer, weakref.ref[Any]] = weakref.WeakKeyDictionary()
        self._aside: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._last: weakref.WeakKeyDictionary[CompressibleLayer, weakref.ref[Any]] = weakref.WeakKeyDictionary()

    def give(self, keys: torch.Tensor, layer: CompressibleLayer | None) -> None:
        """Record which layer returned these dense keys; None for a layer that replaces one of ours."""
        self._given[keys] = None if layer is None else weakref.ref(layer)

    def owner(self, keys: torch.Tensor) -> CompressibleLayer | None:
        """Return the layer that returned these keys; None if it belongs to another cache or no longer exists."""
        return _alive(self._given.get(keys))

    def stands_in(self, keys: torch.Tensor) -> bool:
        """Return whether these keys were returned by a layer that replaces one of ours."""
        return keys in self._given and self._given[keys] is None

    def forget(self, layer: CompressibleLayer) -> None:
        """Forget which module has read a layer."""
        self._modules.pop(layer, None)

    def module_of(self, layer: CompressibleLayer) -> models.Attention | None:
        """Return the module that has read a layer, unless it has read another layer since."""
        reference = self._modules.get(layer)
        return None if reference is None else reference()

    def last_reader(self, layer: CompressibleLayer) -> models.Attention | None:
        """Return the module that has read a layer, even if it has read another layer since."""
        reference = self._last.get(layer)
        return None if reference is None else reference()

    def remember(self, module: models.Attention, layer: CompressibleLayer) -> None:
        """Record that a layer belongs to a module, without a claim to the module's masks."""
        self._last[layer] = weakref.ref(module)

    def mask_of(self, layer: CompressibleLayer) -> tuple[torch.Tensor, ...] | None:
        """Return the entries that a press has masked since the layer was last read, or None."""
        mask = getattr(self.module_of(layer), "masked_key_indices", None)
        return None if mask is None or len(mask[0]) == 0 else tuple(mask)

    def forget_mask(self, layer: CompressibleLayer) -> None:
        """Remove the mask from the module that has read a layer."""
        module = self.module_of(layer)
        if module is not None:
            module.masked_key_indices = None

    def turn_to(self, module: models.Attention, layer: CompressibleLayer | None, prompt: bool) -> None:
        """Set the mask of a module to that of the entries it is about to read.

        Parameters
        ----------
        module : Attention
            The module that reads.
        layer : PiKVLayer, optional
            The layer to read; None for another cache.
        prompt : bool
            Whether these are the first entries of the cache.
        """
        if layer is not None:
            self.remember(module, layer)
        if not models.is_sliding(module):  # the PiKVLayer of such a module takes no mask: it uses kvpress's fake keys
            self._hand_over(module, layer)
        if prompt:
            self._aside.pop(module, None)
            module.masked_key_indices = None

    def read(self, module: models.Attention, layer: CompressibleLayer) -> None:
        """Record that a module has read the dense entries of a layer: its masks belong to the layer from now on."""
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
