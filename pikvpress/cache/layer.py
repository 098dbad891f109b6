"""One layer of a PiKVCache."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from kvpress import FastKVzipPress, KVComposePress, KVgradPress, KVzipPress
from transformers.cache_utils import CacheLayerMixin

from pikvpress import models
from pikvpress.cache.codecs import EXACT, GROUP, Codec
from pikvpress.cache.held import Held
from pikvpress.cache.ragged import Ragged
from pikvpress.cache.storing import store_kept
from pikvpress.support.finite import refuse_not_finite


@dataclass(frozen=True)
class Part:
    """A stretch of the sequence, compressed.

    Parameters
    ----------
    keys, values : Ragged
        What is left of it.
    length : int
        Entries that it had, by which positions and masks go on.
    """

    keys: Ragged
    values: Ragged
    length: int


Choice = Codec | Sequence[Codec]

# Presses that read the context, or questions about it, a second time, and look at attention weights or the cache then.
READ_TWICE = (FastKVzipPress, KVComposePress, KVgradPress, KVzipPress)


def _by_head(choice: Choice, heads: int) -> list[Codec]:
    if isinstance(choice, Codec):
        return [choice] * heads
    if len(choice) != heads:
        raise ValueError(f"there are codecs for {len(choice)} KV heads, but {heads} heads: calibrate for this model")
    return list(choice)


class PiKVLayer(CacheLayerMixin):
    """Keys and values of one layer: first as they come, then compressed, with those that follow beside them.

    Until something is removed or packed it is a `DynamicLayer`: tensors of shape (batch, kv_heads, entries, head_dim)
    that anybody may read and presses may replace. From `pack` on, `keys` and `values` are `Held`.

    Parameters
    ----------
    key_codec, value_codec : Codec or sequence of Codec
        For what comes after the context, and for the context unless a press says otherwise; of all KV heads, or each.
    window : int
        Most recent entries, which stay exact.
    """

    is_sliding = False

    def __init__(self, key_codec: Choice = EXACT, value_codec: Choice = EXACT, window: int = 0):
        self._key_codec, self._value_codec, self.window = key_codec, value_codec, window
        self._clear()
        self.is_initialized = False

    def _clear(self) -> None:
        self.recent_keys: Any = None
        self.recent_values: Any = None
        self.context: tuple[Part, ...] = ()
        self.decoded: Part | None = None
        self._hidden: torch.Tensor | None = None
        self._unseen = False  # whether entries behind the context are known to be padding
        self._slides = False
        self._module: Any = None
        self._failure: ValueError | None = None
        self.depth: int | None = None  # layers of the model, once it is known
        self._codecs: tuple[list[Codec], list[Codec]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of; what a press has masked is taken out before: the mask lies on the model."""
        self.settle()
        tensors = {name: getattr(self, name) for name in ("recent_keys", "recent_values") if self.is_initialized}
        # Detached tensors leave behind the mark by which attention functions know whose they are.
        return self.__dict__ | {name: tensor.detach() for name, tensor in tensors.items()} | {"_module": None}

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take over type and device."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.recent_keys, self.recent_values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    @property
    def keys(self) -> Any:
        """Keys, shape (batch, kv_heads, entries, head_dim), or what stands for them."""
        return Held.of(self, self.get_seq_length()) if self.context else self.recent_keys

    @keys.setter
    def keys(self, states: Any) -> None:
        if not self._is_cut(states, self.recent_keys):
            self.recent_keys = states

    @property
    def values(self) -> Any:
        """Values, likewise."""
        return Held.of(self, self.get_seq_length()) if self.context else self.recent_values

    @values.setter
    def values(self, states: Any) -> None:
        if not self._is_cut(states, self.recent_values):
            self.recent_values = states

    def _is_cut(self, states: Any, before: Any) -> bool:
        """Crop to what stands for fewer entries; return False for plain tensors, if they can be taken."""
        if isinstance(states, Held):
            if states.layer is not self:
                raise ValueError("these keys or values stand for those of another layer: copy the cache instead")
            self.crop(states.shape[2])
            return True
        if self.context:
            raise ValueError(
                "a press writes keys or values of one length for all heads into a layer that holds compressed ones: "
                "let one press choose, or use a DynamicCache"
            )
        if before is not None and states.shape[2] != before.shape[2] and self._mask() is not None:
            self._forget_mask()
            raise ValueError(
                "one press has masked entries of this layer and another removes some, so that the mask points at the "
                "wrong ones: let one press choose, or put the one that masks last"
            )
        return False

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, cache_kwargs: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append entries of all heads; return all there are, as `keys` and `values`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.settle()
        self.recent_keys = torch.cat([self.recent_keys, key_states], dim=2)
        self.recent_values = torch.cat([self.recent_values, value_states], dim=2)
        if not self.context:
            self.recent_keys.pikv_layer = weakref.ref(self)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return how many entries there have been, removed ones included: masks and positions go by it."""
        if self.recent_keys is None:
            return 0
        return self.context_length + self.new_length

    @property
    def context_length(self) -> int:
        """Entries of the compressed context, removed ones included."""
        return sum(part.length for part in self.context)

    @property
    def new_length(self) -> int:
        """Entries behind the compressed context."""
        return (0 if self.decoded is None else self.decoded.length) + self.recent_keys.shape[2]

    def get_mask_sizes(self, cache_position: torch.Tensor) -> tuple[int, int]:
        """Return how many entries a mask must cover, and where it begins."""
        return self.get_seq_length() + cache_position.shape[0], 0

    def get_max_cache_shape(self) -> int:
        """Return that there is no largest size."""
        return -1

    def read_by(self, module: models.Attention, hidden: torch.Tensor | None) -> None:
        """Remember whose layer this is, and which entries are padding: told by the attention function.

        Parameters
        ----------
        module : Attention
            Presses leave the positions of masked entries on it.
        hidden : torch.Tensor, optional
            Padding among the entries, bool, shape (batch, entries).
        """
        self._module, self._hidden, self._slides = weakref.ref(module), hidden, models.is_sliding(module)
        self.depth = int(module.config.num_hidden_layers)

    def _padding(self) -> torch.Tensor | None:
        """Return which entries are padding, None if none are. On a GPU this waits for it: asked for when packing."""
        if self._hidden is not None and not bool(self._hidden.any()):
            self._hidden = None
        return self._hidden

    @property
    def packs(self) -> bool:
        """Whether a codec of its own says how the context is stored, once it has been read."""
        return not (self._key_codec == EXACT and self._value_codec == EXACT)

    def left_by(self, module: models.Attention) -> None:
        """Take out what is masked, before the module reads other entries; a failure is told at the next look."""
        try:
            self.settle()
        except ValueError as failure:
            self._failure = failure
        if self._reader() is module:
            self._module = None

    def _reader(self) -> models.Attention | None:
        return self._module and self._module()

    def _mask(self) -> Any:
        """Return which entries a press has masked since they were read last, or None."""
        mask = getattr(self._reader(), "masked_key_indices", None)
        return None if mask is None or len(mask[0]) == 0 else tuple(mask)

    def _forget_mask(self) -> None:
        module = self._reader()
        if module is not None:
            module.masked_key_indices = None

    def use(self, key_codec: Choice, value_codec: Choice, window: int | None) -> None:
        """Take other codecs, for what is held too."""
        self._key_codec, self._value_codec = key_codec, value_codec
        self.window = self.window if window is None else window
        self.settle()

    def check(self, key_codec: Choice, value_codec: Choice) -> None:
        """Raise a ``ValueError`` if the layer cannot take codecs."""
        if self.context:
            raise ValueError("the cache holds compressed entries already: reset it, or choose the codecs beforehand")
        if self.is_initialized:
            for choice, states in ((key_codec, self.recent_keys), (value_codec, self.recent_values)):
                for codec in _by_head(choice, states.shape[1]):
                    codec.check(states.shape[3])

    def settle(self) -> None:
        """Take out what a press has masked, and pack what is to be packed.

        Presses act after attention, so this runs as soon as anybody looks at a later layer, or at this one.
        """
        if self._failure is not None:
            raise self._failure
        if self._slides or self.get_seq_length() == 0:
            return
        masked = self._mask()
        if self.context:
            if masked is not None:
                self._forget_mask()
                raise ValueError(
                    "a press has masked entries of a layer that holds compressed ones, which is too late: let one "
                    "press choose while the context is read"
                )
            return
        module = self._reader()
        if masked is None and not self.packs:
            return
        if module is None:
            raise ValueError(
                "a PiKVCache with codecs must be read by an attention function that the model looks up with "
                "transformers: model.set_attn_implementation('sdpa') does so; eager attention does since transformers 5"
            )
        if self.packs and any(isinstance(press, READ_TWICE) for press in models.presses_of(module)):
            return  # once that press has left
        kept = torch.ones(self.recent_keys.shape[:3], dtype=torch.bool, device=self.device)
        if masked is not None:
            kept[masked] = False
        heads = kept.shape[1]
        codecs = _by_head(self._key_codec, heads), _by_head(self._value_codec, heads)
        if module.layer_idx == 0:
            for codec in dict.fromkeys(codecs[0] + codecs[1]):
                codec.check_reader(module)
        self.pack(kept, *codecs, self.window)

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
        if self.context:
            raise ValueError("this layer holds compressed entries already: reset the cache, or crop it")
        _, heads, length, _ = self.recent_keys.shape
        padding = self._padding()
        if padding is not None:
            if padding.shape[1] != length:
                raise ValueError(
                    "a press has shortened a padded batch, and padding cannot be told any more: do not pad"
                )
            kept = kept & ~padding.unsqueeze(1)
        packs = any(codec != EXACT for codec in (*key_codecs, *value_codecs))
        split = max(0, length - window) if packs else length
        context = [self._stored(kept, 0, split, key_codecs, value_codecs)]
        if split < length:
            context.append(self._stored(kept, split, length, [EXACT] * heads, [EXACT] * heads))
        self.context, self._codecs = tuple(context), (list(key_codecs), list(value_codecs)) if packs else None
        self.recent_keys, self.recent_values = (
            states[:, :, :0].clone() for states in (self.recent_keys, self.recent_values)
        )
        self._hidden = None
        self._forget_mask()

    def _stored(
        self,
        kept: torch.Tensor | None,
        first: int,
        last: int,
        key_codecs: Sequence[Codec],
        value_codecs: Sequence[Codec],
    ) -> Part:
        """Return recent entries first..last as a part."""
        every = kept is None
        if kept is None:
            kept = torch.ones(self.recent_keys.shape[:3], dtype=torch.bool, device=self.device)
        stay = kept[..., first:last]
        keys, values = self.recent_keys[:, :, first:last], self.recent_values[:, :, first:last]
        try:
            # Entries behind the context are joined, group by group: they store all channels.
            stored_keys = store_kept(keys, stay, key_codecs, True, all_channels=every)
            return Part(stored_keys, store_kept(values, stay, value_codecs, False), last - first)
        except ValueError as error:
            module = self._reader()
            if module is None:
                raise
            refuse_not_finite(module.layer_idx, {"keys": keys, "values": values})
            raise ValueError(f"layer {module.layer_idx}: {error}") from error

    def pack_recent(self, hidden: torch.Tensor) -> None:
        """Pack entries behind the context whose groups are full, but for the window; none if some are padding."""
        whole = (self.recent_keys.shape[2] - self.window) // GROUP * GROUP
        if self._codecs is None or whole <= 0 or self._unseen:
            return
        if bool(hidden.any()):  # on a GPU this waits for it, so that it is asked once
            self._unseen = True
            return
        part = self._stored(None, 0, whole, *([c.following for c in side] for side in self._codecs))
        if self.decoded is not None:
            keys, values = self.decoded.keys.joined(part.keys), self.decoded.values.joined(part.values)
            part = Part(keys, values, self.decoded.length + whole)
        self.decoded = part
        self.recent_keys, self.recent_values = (
            states[:, :, whole:].clone() for states in (self.recent_keys, self.recent_values)
        )

    @property
    def parts(self) -> list[Part]:
        """What is compressed, the oldest first."""
        return [*self.context, *([self.decoded] if self.decoded is not None else [])]

    def crop(self, max_length: int) -> None:
        """Forget the latest entries, so that at most ``max_length`` are left, or so many fewer if it is negative.

        Entries behind the context that are packed already and do not fill their group any more are unpacked.

        Raises
        ------
        ValueError
            If the end would lie inside the compressed context, or more are to be forgotten than there are.
        """
        wanted = self.check_crop(max_length)
        if wanted == self.get_seq_length():
            return
        if wanted == 0:
            self.reset()
            return
        self._unseen = False
        new = wanted - self.context_length
        if self.decoded is not None and new < self.decoded.length:
            whole = new // GROUP * GROUP
            shape = (*self.recent_keys.shape[:2], -1, self.recent_keys.shape[3])
            self.recent_keys, self.recent_values = (
                torch.stack([part.part(i)[whole:new] for i in range(len(part.counts))]).view(shape)
                for part in (self.decoded.keys, self.decoded.values)
            )
            self.decoded = Part(self.decoded.keys.cut(whole), self.decoded.values.cut(whole), whole) if whole else None
        else:
            left = new - (0 if self.decoded is None else self.decoded.length)
            recent = [states[:, :, :left] for states in (self.recent_keys, self.recent_values)]
            if self.context:  # little is left then, and a view would hold what was cut off
                recent = [states.clone() for states in recent]
            self.recent_keys, self.recent_values = recent

    def check_crop(self, max_length: int) -> int:
        """Return how many entries `crop` leaves, or raise its ``ValueError``."""
        length = self.get_seq_length()
        wanted = length + max_length if max_length < 0 else max_length
        if wanted < 0:
            raise ValueError(f"the cache has {length} entries, and {-max_length} of them cannot be forgotten")
        if wanted >= length:
            return length
        if 0 < wanted < self.context_length:
            raise ValueError(
                f"the cache holds a compressed context of {self.context_length} entries and cannot be cropped to "
                f"{wanted}: crop to {self.context_length} or more, or to 0"
            )
        return wanted

    def codec_names(self) -> tuple[str, str]:
        """Return the codecs of the context's keys and values, several joined."""
        parts = self.context[:1]
        if not parts:
            return EXACT.name, EXACT.name
        keys, values = (
            "/".join(dict.fromkeys(codec.name for codec in ragged.codecs))
            for ragged in (parts[0].keys, parts[0].values)
        )
        return keys, values

    def reset(self) -> None:
        """Forget everything, settings excepted."""
        self._clear()
        self.is_initialized = False

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Take the rows of the batch that beams go on from."""
        self._take(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch."""
        if self.is_initialized:
            self._take(torch.arange(self.recent_keys.shape[0]).repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows of the batch."""
        self._take(indices)

    def _take(self, rows: torch.Tensor) -> None:
        if not self.is_initialized:
            return
        self.settle()
        rows = rows.to(self.device)
        self.recent_keys, self.recent_values = self.recent_keys[rows], self.recent_values[rows]
        self._unseen = False
        if self._hidden is not None:
            self._hidden = self._hidden[rows]
        heads = self.recent_keys.shape[1]
        places = [row * heads + head for row in rows.tolist() for head in range(heads)]
        self._change(lambda ragged: ragged.select(places))

    def to(self, device: torch.device | str) -> None:
        """Move everything to a device."""
        if self.is_initialized:
            self.device = torch.device(device)
            self.recent_keys, self.recent_values = self.recent_keys.to(device), self.recent_values.to(device)
            self._hidden = None if self._hidden is None else self._hidden.to(device)
            self._change(lambda ragged: ragged.to(device))

    def _change(self, change: Callable[[Ragged], Ragged]) -> None:
        """Change what is compressed, all or nothing."""
        context = tuple(Part(change(part.keys), change(part.values), part.length) for part in self.context)
        if self.decoded is not None:
            self.decoded = Part(change(self.decoded.keys), change(self.decoded.values), self.decoded.length)
        self.context = context

    @property
    def nbytes(self) -> int:
        """Bytes held, whatever for."""
        if not self.is_initialized:
            return 0
        self.settle()
        storages = {
            storage.data_ptr(): storage.nbytes()
            for storage in (states.untyped_storage() for states in (self.recent_keys, self.recent_values))
        }
        packed = sum(part.keys.nbytes + part.values.nbytes for part in self.parts)
        padding = self._padding()
        return sum(storages.values()) + packed + (0 if padding is None else padding.nbytes)

    def counts(self) -> list[list[int]]:
        """Return how many entries each head of each row of the batch can be read from."""
        self.settle()
        batch, heads, recent, _ = self.recent_keys.shape
        totals = [recent] * (batch * heads)
        for part in self.parts:
            totals = [total + count for total, count in zip(totals, part.keys.counts, strict=True)]
        return [totals[row * heads : (row + 1) * heads] for row in range(batch)]
