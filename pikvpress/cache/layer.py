"""One layer of a PiKVCache."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from pikvpress.cache.choice import of_rows
from pikvpress.cache.entries import Entries
from pikvpress.cache.held import Held
from pikvpress.cache.keeper import Keeper
from pikvpress.cache.readers import READERS
from pikvpress.cache.tail import DenseTail
from pikvpress.cache.tiers.layer import TieredLayer

# transformers once cropped to a number of entries, so that 0 removed all of them. Later versions remove a number of
# entries, given as a negative one, and call crop(0) after every step of assisted decoding.
ZERO_REMOVES_NONE = "max_length" not in signature(DynamicLayer.crop).parameters


class PiKVLayer(TieredLayer, CacheLayerMixin):
    """Keys and values of one layer, with the interface that transformers and presses use: first dense, then compressed.

    Until something is removed or packed, it behaves like a `DynamicLayer`: tensors of shape (batch, kv_heads, entries,
    head_dim) that can be read and that presses may replace. Afterwards `keys` and `values` are `Held`.
    """

    is_sliding = False
    is_croppable = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Set dtype and device from the first states."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.entries = Entries(DenseTail(key_states, value_states).between(0, 0))
        self.is_initialized = True

    @property
    def keys(self) -> Any:
        """Keys, shape (batch, kv_heads, entries, head_dim), or a placeholder for them."""
        return Held.of(self, self.get_seq_length()) if self.entries.are_compressed else self.entries.tail.keys

    @keys.setter
    def keys(self, states: Any) -> None:
        if not self._is_cut(states, self.entries.tail.keys):
            self.entries = Entries(DenseTail(states, self.entries.tail.values))

    @property
    def values(self) -> Any:
        """Values, shape (batch, kv_heads, entries, head_dim), or a placeholder for them."""
        return Held.of(self, self.get_seq_length()) if self.entries.are_compressed else self.entries.tail.values

    @values.setter
    def values(self, states: Any) -> None:
        if not self._is_cut(states, self.entries.tail.values):
            self.entries = Entries(DenseTail(self.entries.tail.keys, states))

    def _is_cut(self, states: Any, before: Any) -> bool:
        """Crop to a placeholder for fewer entries; return False for plain tensors, if they can be assigned."""
        if isinstance(states, Held):
            if states.layer is not self:
                raise ValueError("these keys or values belong to another layer: copy the cache instead")
            self.shorten(states.shape[2])
            return True
        if self.keeper is not None and before is not None:
            if states.data_ptr() != before.data_ptr() or states.shape[2] > before.shape[2]:
                raise ValueError(
                    f"scheduler {self.keeper.schedule.scheduler.name!r} decides what this layer keeps, so its keys and "
                    "values cannot be replaced: use either a press or a scheduler"
                )
            self.shorten(states.shape[2])
            return True
        if self.entries.are_compressed:
            raise ValueError(
                "a press writes keys or values of one length for all heads into a layer that holds compressed ones: "
                "let one press choose, or use a DynamicCache"
            )
        if before is not None and states.shape[2] != before.shape[2] and READERS.mask_of(self) is not None:
            READERS.forget_mask(self)
            raise ValueError(
                "one press has masked entries of this layer and another one removes entries, so the mask refers to the "
                "wrong ones: let one press choose, or apply the one that masks last"
            )
        return False

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        cache_kwargs: dict[str, Any] | None = None,
        **of_module: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append entries of all heads; return all entries, like `keys` and `values`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held, given = self.entries.tail.keys.shape[1], key_states.shape[1]
        if held != given:
            raise ValueError(
                f"this cache holds {held} KV heads a layer, and this layer computes {given}: it is of another model, "
                "or of one that is split over another number of ranks"
            )
        self.settle()
        before, self.entries = self.entries, self.entries.appended(key_states, value_states)
        if self.keeper is not None:
            self._record(self.keeper, before, cache_kwargs)
        if not self.entries.are_compressed:
            READERS.give(self.entries.tail.keys, self)
        return self.keys, self.values

    def _record(self, keeper: Keeper, before: Entries, cache_kwargs: dict[str, Any] | None) -> None:
        """Let the keeper record what follows these entries, or hold only these if it raises an error."""
        try:
            keeper.arrived(self.entries, self.entries.length - before.length, cache_kwargs)
        except Exception:
            if before.length == 0:
                self.reset()
            else:
                self.entries = before
            raise

    def get_seq_length(self) -> int:
        """Return the number of entries including removed ones, which masks and positions depend on."""
        return self._measured().length

    def get_mask_sizes(self, cache_position: torch.Tensor | int) -> tuple[int, int]:
        """Return how many entries a mask must cover, and its offset; later versions pass the number of tokens."""
        tokens = cache_position.shape[0] if isinstance(cache_position, torch.Tensor) else cache_position
        return self.get_seq_length() + tokens, 0

    def get_max_cache_shape(self) -> int:
        """Return -1: there is no maximum size."""
        return -1

    get_max_length = get_max_cache_shape  # its name in later versions

    def length_after_crop(self, max_length: int) -> int:
        """Return how many entries a crop leaves, or raise its ``ValueError``."""
        if self.keeper is not None and self.is_initialized:
            return self.keeper.length_after_crop(self.entries, max_length)
        return self.entries.length_after_crop(max_length)

    def crop(self, max_length: int) -> None:
        """Remove the latest entries; see `PiKVCache.crop`."""
        if max_length != 0 or not ZERO_REMOVES_NONE:
            self.shorten(max_length)

    def shorten(self, max_length: int) -> None:
        """Remove the latest entries so that at most ``max_length`` are left; a negative value is the number to remove.

        Entries after the context that are already packed and no longer fill their group are unpacked. Entries that a
        scheduler has dropped do not come back.

        Raises
        ------
        ValueError
            If the new end would be inside the compressed context, or more entries would be removed than there are.
        """
        wanted = self.length_after_crop(max_length)
        if wanted == 0 < self.entries.length:
            self.reset()
        elif wanted < self.entries.length and self.keeper is not None:
            self.entries = self.keeper.cropped(self.entries, wanted)
        elif wanted < self.entries.length:
            self.entries, self._follows_padding = self.entries.cropped(wanted), False
        self.rest_if_possible()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Select the rows of the batch from which beams continue."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch."""
        if self.is_initialized:
            self.batch_select_indices(torch.arange(self.entries.tail.keys.shape[0]).repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the selected rows of the batch, in the given order."""
        if not self.is_initialized:
            return
        self.settle()
        rows = indices.to(self.device)
        self.entries, self._follows_padding = self.entries.rows(rows), False
        self._padding = None if self._padding is None else self._padding[rows]
        if self._following is not None:
            heads = self.entries.tail.keys.shape[1]
            keys, values = (of_rows(side, rows.tolist(), heads) for side in self._following)
            self._following = keys, values
        if self.keeper is not None:
            self.keeper.selected(rows)
            self.entries = self.keeper.enforced(self.entries, at_once=True)  # more rows share the same bytes
        self.rest_if_possible()

    def to(self, device: torch.device | str) -> None:
        """Move everything to a device."""
        if self.is_initialized:
            entries, self.device = self.entries, torch.device(device)
            self.entries = entries.to(device)
            self._padding = None if self._padding is None else self._padding.to(device)
            if self.keeper is not None:
                self.keeper.to(self.device)
            self.rest_if_possible()
