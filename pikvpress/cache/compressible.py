"""A layer whose entries a press or a codec compresses, whatever it is that fills it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from pikvpress import models
from pikvpress.cache.choice import CodecChoice, by_head
from pikvpress.cache.codec import GROUP, Codec
from pikvpress.cache.codecs import EXACT
from pikvpress.cache.entries import Entries
from pikvpress.cache.kvpress_rules import is_read_again
from pikvpress.cache.pending import Pending
from pikvpress.cache.readers import READERS


class CompressibleLayer:
    """Entries of one layer: dense, until a press has masked some or a codec packs them; then compressed.

    Parameters
    ----------
    key_codec, value_codec : Codec or sequence of Codec
        For what comes after the context, and for the context unless a press says otherwise; of all KV heads, or each.
    window : int
        Most recent entries, which stay exact.

    Attributes
    ----------
    entries : Entries
        What it holds.
    depth : int, optional
        Layers of the model, once it is known.
    """

    def __init__(self, key_codec: CodecChoice = EXACT, value_codec: CodecChoice = EXACT, window: int = 0):
        self._key_codec, self._value_codec, self.window = key_codec, value_codec, window
        self.reset()

    def reset(self) -> None:
        """Forget everything, settings excepted."""
        READERS.forget(self)
        self.entries, self.is_initialized = Entries(), False
        self.depth: int | None = None
        self._padding: torch.Tensor | None = None  # which entries are padding, if the model's mask said so
        self._slides = False
        self._failure: ValueError | None = None
        self._following: tuple[Sequence[Codec], Sequence[Codec]] | None = None  # codecs of entries after the context
        self._follows_padding = False  # whether entries after the context are known to be padding

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of. It begins compressed where this one is yet to be: masks lie on the model."""
        pending = self._pending()
        changed = {"entries": self.entries} if pending is None else self._after(pending)
        entries = changed["entries"]
        return self.__dict__ | changed | {"entries": replace(entries, tail=entries.tail.detached())}

    # What masks and codecs do to it.

    def read_by(self, module: models.Attention, padding: torch.Tensor | None) -> None:
        """Remember who reads the layer's dense entries, and which are padding: told by the attention function.

        Parameters
        ----------
        module : Attention
            Presses leave the positions of masked entries on it.
        padding : torch.Tensor, optional
            Which entries are, bool, shape (batch, entries).
        """
        READERS.read(module, self)
        self._padding, self._slides = padding, models.is_sliding(module)
        self.depth = int(module.config.num_hidden_layers)

    def left(self) -> None:
        """Take out what is masked, before the module reads other entries; a failure is told at the next look."""
        try:
            self.settle()
        except ValueError as failure:
            self._failure = failure

    @property
    def packs(self) -> bool:
        """Whether a codec of its own says how the context is stored, once it has been read."""
        return not (self._key_codec == EXACT and self._value_codec == EXACT)

    def use(self, key_codec: CodecChoice, value_codec: CodecChoice, window: int) -> None:
        """Take other codecs, for what is held too."""
        self._key_codec, self._value_codec, self.window = key_codec, value_codec, window
        self.settle()

    def check(self, key_codec: CodecChoice, value_codec: CodecChoice) -> None:
        """Raise a ``ValueError`` if the layer cannot take codecs."""
        if self.entries.are_compressed:
            raise ValueError("the cache holds compressed entries already: reset it, or choose the codecs beforehand")
        if self.is_initialized:
            for choice, states in ((key_codec, self.entries.tail.keys), (value_codec, self.entries.tail.values)):
                for codec in by_head(choice, states.shape[1]):
                    codec.check(states.shape[3])

    def settle(self) -> None:
        """Take out what a press has masked, and pack what is to be packed.

        Presses act after attention, so this runs as soon as a later layer is read, or this one.

        Raises
        ------
        ValueError
            If it cannot be done. The layer is then as it was, but for a mask that came too late, which is forgotten.
        """
        pending = self._pending()
        if self.entries.are_compressed and not self._slides and READERS.mask_of(self) is not None:
            READERS.forget_mask(self)
            raise ValueError(
                "a press has masked entries of a layer that holds compressed ones, which is too late: let one press "
                "choose while the context is read"
            )
        if pending is not None:
            self._compress(pending)

    def pack(self, kept: torch.Tensor, key_codecs: Sequence[Codec], value_codecs: Sequence[Codec], window: int) -> None:
        """Keep some of the entries, in the codec of their head; of what follows, `window` entries stay exact.

        Parameters
        ----------
        kept : torch.Tensor
            bool, shape (batch, kv_heads, entries).
        key_codecs, value_codecs : sequence of Codec
            By KV head.
        window : int
            Most recent of these entries that stay exact.

        Raises
        ------
        ValueError
            If entries are compressed already, or a codec cannot take them. The layer is then as it was.
        """
        if self.entries.are_compressed:
            raise ValueError("this layer holds compressed entries already: reset the cache, or crop it")
        self._compress(self._decided(kept, (key_codecs, value_codecs), window))

    def _compress(self, pending: Pending) -> None:
        self.__dict__.update(self._after(pending))
        READERS.forget_mask(self)

    def _after(self, pending: Pending) -> dict[str, Any]:
        """Return the attributes that compression changes."""
        entries = self.entries.after(pending, self._index)
        return {"entries": entries, "_padding": None, "_following": pending.codecs if pending.packs else None}

    def pack_recent(self, hidden: torch.Tensor) -> None:
        """Pack entries after the context whose groups are full, but for the window; none if some are padding."""
        whole = (self.entries.tail.length - self.window) // GROUP * GROUP
        if self._following is None or whole <= 0 or self._follows_padding:
            return
        if bool(hidden.any()):  # on a GPU this waits for it, so that it is asked once
            self._follows_padding = True
            return
        keys, values = ([codec.following for codec in side] for side in self._following)
        self.entries = self.entries.packed(whole, (keys, values), self._index)

    def _pending(self) -> Pending | None:
        """Return what `settle` would do, or None; raise its ``ValueError`` if that is known to fail. Change nothing."""
        if self._failure is not None:
            raise self._failure
        if self._slides or self.entries.length == 0 or self.entries.are_compressed:
            return None
        masked = READERS.mask_of(self)
        if masked is None and not self.packs:
            return None
        module = READERS.module_of(self)
        if module is None:
            raise ValueError(
                "a PiKVCache with codecs must be read by an attention function that the model looks up with "
                "transformers: model.set_attn_implementation('sdpa') does so; eager attention does since transformers 5"
            )
        if self.packs and is_read_again(module):
            return None  # until that press has left
        keys = self.entries.tail.keys
        kept = torch.ones(keys.shape[:3], dtype=torch.bool, device=keys.device)
        if masked is not None:
            kept[masked] = False
        codecs = by_head(self._key_codec, keys.shape[1]), by_head(self._value_codec, keys.shape[1])
        if module.layer_idx == 0:
            for codec in dict.fromkeys(codecs[0] + codecs[1]):
                codec.check_reader(module)
        return self._decided(kept, codecs, self.window)

    def _decided(self, kept: torch.Tensor, codecs: tuple[Sequence[Codec], Sequence[Codec]], window: int) -> Pending:
        """Return what is to be done where these are to be kept: padding is not."""
        padding = self._known_padding()
        if padding is None:
            return Pending(kept, codecs, window)
        if padding.shape[1] != self.entries.length:
            raise ValueError("a press has shortened a padded batch, and padding cannot be told any more: do not pad")
        return Pending(kept & ~padding.unsqueeze(1), codecs, window)

    def _known_padding(self) -> torch.Tensor | None:
        """Return which entries are padding, None if none are. On a GPU this waits for it."""
        return self._padding if self._padding is not None and bool(self._padding.any()) else None

    @property
    def _index(self) -> int | None:
        module = READERS.module_of(self)
        return None if module is None else module.layer_idx

    # What it holds. Nothing here acts: of what is pending, it is told what that will leave.

    @property
    def nbytes(self) -> int:
        """Bytes held, whatever for; those that will be where a mask or a codec is yet to take effect."""
        if not self.is_initialized:
            return 0
        pending = self._pending()
        if pending is not None:
            return pending.nbytes(self.entries.tail)
        padding = self._known_padding()
        return self.entries.nbytes + (0 if padding is None else padding.nbytes)

    def counts(self) -> list[list[int]]:
        """Return how many entries each head of each row of the batch can be read from."""
        if not self.is_initialized:
            return []
        pending = self._pending()
        counts = self.entries.counts() if pending is None else pending.counts()
        heads = self.entries.tail.keys.shape[1]
        return [counts[first : first + heads] for first in range(0, len(counts), heads)]

    def codec_names(self) -> tuple[str, str]:
        """Return the codecs of the context's keys and values, several joined."""
        pending, context = self._pending(), self.entries.compressed.context
        codecs = pending.codecs if pending is not None else context[0].codecs if context else ((EXACT,), (EXACT,))
        keys, values = ("/".join(dict.fromkeys(codec.name for codec in side)) for side in codecs)
        return keys, values
