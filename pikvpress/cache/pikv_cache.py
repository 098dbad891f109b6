"""PiKVCache: a transformers cache in which what a press removes is gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import Cache

from pikvpress.cache.calibrated import Bases
from pikvpress.cache.choice import known, of_layer
from pikvpress.cache.codec import Codec
from pikvpress.cache.codecs import EXACT
from pikvpress.cache.layer import PiKVLayer
from pikvpress.cache.readers import READERS


class PiKVCache(Cache):
    """Keys and values of every layer, of any number a head, each head in a codec of its own.

    It goes wherever a transformers cache goes: `past_key_values=` of a model or `generate`, `cache=` of kvpress's
    pipeline. Without a press and with exact codecs it is a `DynamicCache`, to the last bit. Entries that a press masks
    (AdaKVPress and the other head-wise ones do) are taken out of it, and the mask off the model: what stays is read by
    pikvpress's own attention. Layers that attend a sliding window are left alone.

    Parameters
    ----------
    key_codec, value_codec : str or Bases, default="exact"
        How the context is stored once it has been read, and what follows once `window` more tokens have: "exact", or
        "int8", "int4", "int3", "int2": numbers of so many bits, scales for groups of 64, of keys along tokens, of
        values along channels (KIVI, https://arxiv.org/abs/2402.02750); or "rank16" (any rank), a few directions of the
        context's own, with "+int2" their error in 2 bits, see `LowRankCodec`; or those that `calibrate_bases` found
        for the model. A `PiKVPress` decides by itself.
    window : int, default=128
        Where a codec is not exact: most recent entries of the context, and of what follows, that stay exact.

    Raises
    ------
    ValueError
        For an unknown codec, or a window below 0; from a forward, if an earlier one ended in an error.

    Examples
    --------
    >>> cache = PiKVCache()
    >>> pipe(context, questions=questions, press=AdaKVPress(MoERouterPress(0.75)), cache=cache)
    >>> cache.nbytes
    """

    layers: list[PiKVLayer]  # type: ignore[assignment]

    def __init__(
        self, key_codec: str | Codec | Bases = "exact", value_codec: str | Codec | Bases = "exact", window: int = 128
    ):
        if window < 0:
            raise ValueError(f"window must be at least 0 entries, got {window}")
        super().__init__(layers=[])
        self._codecs, self._window = (known(key_codec), known(value_codec)), window
        self._before: list[int] = []  # lengths of the layers before the latest forward
        self._reached = -1  # the last layer that it came to

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        cache_kwargs: dict[str, Any] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append entries to a layer; earlier layers are settled meanwhile.

        Raises
        ------
        ValueError
            If an earlier forward ended before its last layer. The cache is then where it was before that forward.
        """
        if layer_idx == 0:
            self._begin()
        while len(self.layers) <= layer_idx:
            self.layers.append(PiKVLayer(*of_layer(self._codecs, len(self.layers)), self._window))
        if layer_idx > 0 and isinstance(self.layers[layer_idx - 1], PiKVLayer):
            self.layers[layer_idx - 1].settle()
        self._reached = layer_idx
        layer = self.layers[layer_idx]
        keys, values = layer.update(key_states, value_states, cache_kwargs)
        if not isinstance(layer, PiKVLayer):  # KVgrad puts others in the place of ours while it scores what ours hold
            READERS.give(keys, None)
        return keys, values

    def _begin(self) -> None:
        """Remember where a forward begins; undo the one before if it did not come to the end."""
        expected = self.layers[0].depth if self.layers and isinstance(self.layers[0], PiKVLayer) else None
        if expected is not None and self._reached < expected - 1:
            reached, self._reached = self._reached, expected - 1
            for layer, length in zip(self.layers, [*self._before, *[0] * len(self.layers)], strict=False):
                if length == 0:
                    layer.reset()
                else:
                    layer.crop(length)
            raise ValueError(
                f"an earlier forward ended in layer {reached} of {expected}; the cache has been taken back to the "
                f"{self.get_seq_length()} entries of before: run the model on it again"
            )
        self._before = [layer.get_seq_length() for layer in self.layers]

    def pack(self, key_codec: str | Codec | Bases, value_codec: str | Codec | Bases, window: int | None = None) -> None:
        """Store what is held, and what follows, in other codecs.

        Parameters
        ----------
        key_codec, value_codec : str or Bases
            As for the cache.
        window : int, optional
            Most recent entries that stay exact. By default as before.

        Raises
        ------
        ValueError
            For an unknown codec, or one that cannot take the heads; if the cache is compressed already.
        """
        if window is not None and window < 0:
            raise ValueError(f"window must be at least 0 entries, got {window}")
        codecs = known(key_codec), known(value_codec)
        choices = [of_layer(codecs, index) for index in range(len(self.layers))]
        for layer, choice in zip(self.layers, choices, strict=True):
            layer.check(*choice)
        self._codecs, self._window = codecs, self._window if window is None else window
        for layer, choice in zip(self.layers, choices, strict=True):
            layer.use(*choice, self._window)

    def settle(self) -> None:
        """Take out now what a press has masked, and pack what is to be packed.

        The cache does so itself as soon as it is read on, and each layer as soon as the next one is read. It matters
        for the memory of the last layer, and after presses that mask once the model is done: KVzipPress and its kin.

        Raises
        ------
        ValueError
            If a layer cannot be compressed so. That layer and those after it are then as they were.
        """
        for layer in self.layers:
            layer.settle()

    def crop(self, max_length: int) -> None:
        """Forget the latest entries, so that at most ``max_length`` are left, or so many fewer if it is negative.

        Raises
        ------
        ValueError
            If the end would lie inside a compressed context, or more are to be forgotten than there are. Nothing is
            then cropped.
        """
        for layer in self.layers:
            layer.entries.length_after_crop(max_length)
        super().crop(max_length)
        if max_length == 0:
            self._before, self._reached = [], len(self.layers) - 1

    def reset(self) -> None:
        """Forget everything, settings excepted."""
        super().reset()
        self._before, self._reached = [], len(self.layers) - 1

    def to(self, device: torch.device | str) -> PiKVCache:
        """Move everything to a device, and return the cache."""
        for layer in self.layers:
            layer.to(device)
        return self

    def __iter__(self) -> Iterator[tuple[Any, Any, None]]:
        """Yield each layer's keys and values, or what stands for them, and None, as a `DynamicCache` does."""
        for layer in self.layers:
            layer.settle()
            yield layer.keys, layer.values, None

    @property
    def packs(self) -> bool:
        """Whether codecs say how contexts are stored once they have been read."""
        return any(choice != EXACT for choice in self._codecs)

    @property
    def nbytes(self) -> int:
        """Bytes held: keys, values, scales, filling, padding that is known of, and calibrated directions."""
        bases = {id(choice): choice.nbytes for choice in self._codecs if isinstance(choice, Bases)}
        return sum(layer.nbytes for layer in self.layers) + sum(bases.values())

    def table(self) -> Table:
        """Return what each layer holds, for `rich` to print."""
        table = Table("layer", "entries a head", "of", "keys", "values", "KiB", title="PiKVCache")
        for index, layer in enumerate(self.layers):
            if not layer.is_initialized:
                continue
            counts = [count for row in layer.counts() for count in row]
            entries = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"
            keys, values = layer.codec_names()
            table.add_row(str(index), entries, str(layer.get_seq_length()), keys, values, f"{layer.nbytes / 1024:,.1f}")
        return table

    def __str__(self) -> str:
        """Return the table as text."""
        console = Console(width=100)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()
