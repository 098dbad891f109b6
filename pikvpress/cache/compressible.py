"""A layer whose entries are compressed by a press or a codec, independent of how they are added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pikvpress import models
from pikvpress.cache.choice import CodecChoice, by_head
from pikvpress.cache.codec import GROUP, Codec
from pikvpress.cache.codecs import EXACT
from pikvpress.cache.entries import Entries
from pikvpress.cache.keeper import Keeper
from pikvpress.cache.kvpress_rules import is_read_again
from pikvpress.cache.part import RankPart
from pikvpress.cache.pending import Pending
from pikvpress.cache.readers import READERS
from pikvpress.cache.tail import DenseTail

if TYPE_CHECKING:
    from pikvpress.cache.tiers.away import Away


class CompressibleLayer:
    """Entries of one layer: dense until a press masks some or a codec packs them, compressed afterwards.

    Parameters
    ----------
    key_codec, value_codec : Codec or sequence of Codec
        For entries after the context, and for the context unless a press decides otherwise; one for all KV heads, or
        one for each.
    window : int
        Number of most recent entries, which stay exact.

    Attributes
    ----------
    entries : Entries
        The current entries.
    depth : int, optional
        Number of layers of the model that have entries of their own, once it is known.
    keeper : Keeper, optional
        Keeps the layer within a ceiling if the cache is scheduled.
    part : RankPart, optional
        Says what of the context this rank holds if it lies on several.
    """

    def __init__(self, key_codec: CodecChoice = EXACT, value_codec: CodecChoice = EXACT, window: int = 0):
        self._key_codec, self._value_codec, self.window = key_codec, value_codec, window
        self.keeper: Keeper | None = None
        self.part: RankPart | None = None
        self.reset()

    def reset(self) -> None:
        """Clear everything except the settings."""
        READERS.forget(self)
        self.entries, self.is_initialized = Entries(), False
        if self.keeper is not None:
            self.keeper.reset()
        self.depth: int | None = None
        self._padding: torch.Tensor | None = None  # which entries are padding according to the model's mask, if any
        self._slides = False
        self._failure: ValueError | None = None
        self._following: tuple[Sequence[Codec], Sequence[Codec]] | None = None  # codecs of entries after the context
        self._was_padded = False  # whether padding was removed from the context
        self._follows_padding = False  # whether entries after the context are known to be padding

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy. Pending compression is applied to it, because masks are stored on the model."""
        pending = self._pending()
        changed = {"entries": self.entries} if pending is None else self._after(pending)
        entries = changed["entries"]
        return self.__dict__ | changed | {"entries": replace(entries, tail=entries.tail.detached())}

    # Effects of masks and codecs.

    def read_by(self, module: models.Attention, padding: torch.Tensor | None) -> None:
        """Record which module reads the layer's dense entries, and which are padding; called by the attention function.

        Parameters
        ----------
        module : Attention
            Presses store the positions of masked entries on it.
        padding : torch.Tensor, optional
            Mask of the padding entries, bool, shape (batch, entries).
        """
        READERS.read(module, self)
        self._padding, self._slides = padding, models.is_sliding(module)
        shared = getattr(module.config, "num_kv_shared_layers", None) or 0  # the last layers of Gemma 3n have no keys
        self.depth = int(module.config.num_hidden_layers) - shared

    def left(self) -> None:
        """Remove masked entries before the module reads other entries; errors are raised at the next access."""
        try:
            self.settle()
        except ValueError as failure:
            self._failure = failure

    @property
    def packs(self) -> bool:
        """Whether the layer's own codecs pack the context after the prefill."""
        return not (self._key_codec == EXACT and self._value_codec == EXACT)

    def use(self, key_codec: CodecChoice, value_codec: CodecChoice, window: int) -> None:
        """Set other codecs, which also apply to the entries already held."""
        self._key_codec, self._value_codec, self.window = key_codec, value_codec, window
        self.settle()

    def check(self, key_codec: CodecChoice, value_codec: CodecChoice) -> None:
        """Raise a ``ValueError`` if the layer cannot take codecs."""
        if self.entries.are_compressed:
            raise ValueError("the cache already holds compressed entries: reset it, or choose the codecs beforehand")
        if self.is_initialized:
            for choice, states in ((key_codec, self.entries.tail.keys), (value_codec, self.entries.tail.values)):
                for codec in by_head(choice, states.shape[1], READERS.module_of(self)):
                    codec.check(states.shape[3])

    def _measured(self) -> Entries | Away:
        """Return what is measured where no change is pending."""
        return self.entries

    def settle(self) -> None:
        """Remove the entries that a press has masked, and pack entries as the codecs require.

        Presses act after attention, so this runs as soon as a later layer, or this one, is read.

        Raises
        ------
        ValueError
            If this is not possible. The layer is then unchanged, but a mask that was set too late is discarded.
        """
        pending = self._pending()
        if self._measured().are_compressed and not self._slides and READERS.mask_of(self) is not None:
            READERS.forget_mask(self)
            raise ValueError(
                "a press has masked entries of a layer that is already compressed, which is too late: let one press "
                "choose during the prefill"
            )
        if pending is not None:
            self._compress(pending)

    def pack(
        self,
        kept: torch.Tensor,
        key_codecs: Sequence[Codec],
        value_codecs: Sequence[Codec],
        window: int,
        values: torch.Tensor | None = None,
    ) -> None:
        """Keep some of the entries, in the codec of their head; `window` of the later entries stay exact.

        Parameters
        ----------
        kept : torch.Tensor
            bool, shape (batch, kv_heads, entries).
        key_codecs, value_codecs : sequence of Codec
            By KV head, or by row, then head.
        window : int
            Number of the most recent of these entries that stay exact.
        values : torch.Tensor, optional
            Values to store instead of those held, of the same shape.

        Raises
        ------
        ValueError
            If entries are already compressed, or a codec cannot store them. The layer is then unchanged.
        """
        if self.entries.are_compressed:
            raise ValueError("this layer already holds compressed entries: reset the cache, or crop it")
        dense = self.entries if values is None else Entries(DenseTail(self.entries.tail.keys, values))
        self._compress(self._decided(kept, (key_codecs, value_codecs), window), dense)

    def _compress(self, pending: Pending, dense: Entries | None = None) -> None:
        self.__dict__.update(self._after(pending, dense))
        READERS.forget_mask(self)

    def _after(self, pending: Pending, dense: Entries | None = None) -> dict[str, Any]:
        """Return the attributes that compression changes; other dense entries may be given than those held."""
        entries = (dense or self.entries).after(pending, self._index)
        following = pending.codecs if pending.packs else None
        return {"entries": entries, "_padding": None, "_was_padded": pending.padded, "_following": following}

    def pack_recent(self, hidden: torch.Tensor) -> None:
        """Pack full groups of entries after the context, except for the window; none if some are padding."""
        whole = (self.entries.tail.length - self.window) // GROUP * GROUP
        if self.part is not None or self.keeper is not None:
            return
        if self._following is None or whole <= 0 or self._follows_padding:
            return
        if bool(hidden.any()):  # this synchronises with a GPU, so it runs only once
            self._follows_padding = True
            return
        keys, values = ([codec.following for codec in side] for side in self._following)
        self.entries = self.entries.packed(whole, (keys, values), self._index)

    def _pending(self) -> Pending | None:
        """Return what `settle` would do, or None, without side effects; raise its ``ValueError`` if known."""
        if self._failure is not None:
            raise self._failure
        if self._slides or self.entries.length == 0 or self.entries.are_compressed or self.keeper is not None:
            return None
        masked = READERS.mask_of(self)
        if masked is None and not self.packs and self.part is None:
            return None
        module = READERS.module_of(self)
        if module is None:
            raise ValueError(
                "a PiKVCache with codecs needs an attention function that the model looks up through transformers: "
                "call model.set_attn_implementation('sdpa'); eager attention works since transformers 5"
            )
        if self.packs and is_read_again(module):
            return None  # until the context manager of that press has exited
        keys = self.entries.tail.keys
        kept = torch.ones(keys.shape[:3], dtype=torch.bool, device=keys.device)
        if masked is not None:
            kept[masked] = False
        sides = self._key_codec, self._value_codec
        codecs = by_head(sides[0], keys.shape[1], module), by_head(sides[1], keys.shape[1], module)
        if module.layer_idx == 0:
            for codec in dict.fromkeys(codecs[0] + codecs[1]):
                codec.check_reader(module)
        return self._decided(kept, codecs, self.window)

    def _decided(self, kept: torch.Tensor, codecs: tuple[Sequence[Codec], Sequence[Codec]], window: int) -> Pending:
        """Return the pending change if these entries are kept, except for padding."""
        padding = self._known_padding()
        if padding is None:
            if self.part is not None:
                keys = self.entries.tail.keys
                kept, codecs = self.part.own(kept, codecs, keys.shape[3], keys.dtype)
            return Pending(kept, codecs, window)
        if padding.shape[1] != self.entries.length:
            raise ValueError(
                "a press has shortened a padded batch, and padding can no longer be identified: do not pad"
            )
        if self.part is not None:
            raise ValueError("a sharded cache holds one sequence without padding: do not pad")
        return Pending(kept & ~padding.unsqueeze(1), codecs, window, padded=True)

    def _known_padding(self) -> torch.Tensor | None:
        """Return a mask of the padding entries, or None if there are none. This synchronises with a GPU."""
        return self._padding if self._padding is not None and bool(self._padding.any()) else None

    @property
    def _index(self) -> int | None:
        module = READERS.module_of(self)
        return None if module is None else module.layer_idx

    # Contents of the layer, without side effects: they are given as pending changes will leave them.

    @property
    def nbytes(self) -> int:
        """All bytes held, as they will be after pending masks and codecs take effect."""
        if not self.is_initialized:
            return 0
        pending = self._pending()
        if pending is not None:
            return pending.nbytes(self.entries.tail)
        padding = self._known_padding()
        recorded = 0 if self.keeper is None else self.keeper.nbytes
        return self._measured().nbytes + recorded + (0 if padding is None else padding.nbytes)

    def counts(self) -> list[list[int]]:
        """Return how many entries attention can read from each head of each row of the batch."""
        if not self.is_initialized:
            return []
        pending = self._pending()
        held = self._measured()
        counts, heads = held.counts() if pending is None else pending.counts(), held.heads
        return [counts[first : first + heads] for first in range(0, len(counts), heads)]

    def codec_names(self) -> tuple[str, str]:
        """Return the codecs of the context's keys and values; several codecs are joined."""
        pending, context = self._pending(), self._measured().compressed.context
        codecs = pending.codecs if pending is not None else context[0].codecs if context else ((EXACT,), (EXACT,))
        keys, values = ("/".join(dict.fromkeys(codec.name for codec in side)) for side in codecs)
        return keys, values
