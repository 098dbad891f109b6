"""PiKVCache: a transformers cache that really frees the entries that a press removes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from kvpress import BasePress
from rich.console import Console
from rich.table import Table
from transformers import Cache, PreTrainedModel

from pikvpress.cache.calibrated import Bases
from pikvpress.cache.choice import known, of_layer
from pikvpress.cache.codec import Codec
from pikvpress.cache.codecs import EXACT
from pikvpress.cache.layer import PiKVLayer
from pikvpress.cache.readers import READERS
from pikvpress.cache.saving import CacheState, load, save


class PiKVCache(Cache):
    """Keys and values of every layer, with any number of entries per head and one codec per head.

    It can be used wherever a transformers cache is used: as `past_key_values=` of a model or `generate`, or as `cache=`
    of kvpress's pipeline. Without a press and with exact codecs, it behaves bit for bit like a `DynamicCache`. Entries
    that a press masks (as AdaKVPress and other head-wise presses do) are removed from the cache, and the mask from the
    model; pikvpress's own attention reads the remaining entries. Layers with sliding-window attention are left
    unchanged.

    Parameters
    ----------
    key_codec, value_codec : str or Bases, default="exact"
        How the context is stored after the prefill, and later entries once `window` more tokens have arrived: "exact";
        "int8", "int4", "int3" or "int2", with that many bits per number and scales for groups of 64, along tokens for
        keys and along channels for values (KIVI, https://arxiv.org/abs/2402.02750); "rank16" (any rank), a few
        directions computed from the context, with "+int2" for the residual in 2 bits, see `LowRankCodec`; or bases from
        `calibrate_bases` for the model. A `PiKVPress` chooses codecs itself.
    window : int, default=128
        If a codec is not exact: number of most recent entries, of the context and of later entries, that stay exact.

    Raises
    ------
    ValueError
        For an unknown codec or a negative window; from a forward, if an earlier forward ended in an error.

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
        self._reached = -1  # the last layer that it reached

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        cache_kwargs: dict[str, Any] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append entries to a layer; earlier layers are settled in the process.

        Raises
        ------
        ValueError
            If an earlier forward ended before its last layer. The cache is then restored to its state before that
            forward.
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
        if not isinstance(layer, PiKVLayer):  # KVgrad replaces our layers while it scores their contents
            READERS.give(keys, None)
        return keys, values

    def _begin(self) -> None:
        """Record where a forward begins; undo the previous one if it was not completed."""
        expected = self.layers[0].depth if self.layers and isinstance(self.layers[0], PiKVLayer) else None
        if expected is not None and self._reached < expected - 1:
            reached, self._reached = self._reached, expected - 1
            for layer, length in zip(self.layers, [*self._before, *[0] * len(self.layers)], strict=False):
                if length == 0:
                    layer.reset()
                else:
                    layer.crop(length)
            raise ValueError(
                f"an earlier forward ended in layer {reached} of {expected}; the cache has been restored to the "
                f"{self.get_seq_length()} entries before it: run the model on it again"
            )
        self._before = [layer.get_seq_length() for layer in self.layers]

    def pack(self, key_codec: str | Codec | Bases, value_codec: str | Codec | Bases, window: int | None = None) -> None:
        """Store the present and later entries with other codecs.

        Parameters
        ----------
        key_codec, value_codec : str or Bases
            See the parameters of the cache.
        window : int, optional
            Number of most recent entries that stay exact. By default unchanged.

        Raises
        ------
        ValueError
            For an unknown codec, or one that cannot store heads of this size; if the cache is already compressed.
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
        """Immediately remove the entries that a press has masked, and pack entries as the codecs require.

        The cache does this automatically when it is used again, and for each layer when the next layer is read. Calling
        it matters for the memory of the last layer, and after presses that mask at the end, such as KVzipPress.

        Raises
        ------
        ValueError
            If a layer cannot be compressed. That layer and those after it are then unchanged.
        """
        for layer in self.layers:
            layer.settle()

    def crop(self, max_length: int) -> None:
        """Remove the latest entries so that at most ``max_length`` are left; a negative value is the number to remove.

        Raises
        ------
        ValueError
            If the new end would be inside a compressed context, or more entries would be removed than there are.
            Nothing is cropped in this case.
        """
        for layer in self.layers:
            layer.entries.length_after_crop(max_length)
        super().crop(max_length)
        if max_length == 0:
            self._before, self._reached = [], len(self.layers) - 1

    def reset(self) -> None:
        """Clear everything except the settings."""
        super().reset()
        self._before, self._reached = [], len(self.layers) - 1

    def to(self, device: torch.device | str) -> PiKVCache:
        """Move everything to a device, and return the cache."""
        for layer in self.layers:
            layer.to(device)
        return self

    def save(
        self,
        path: str | Path,
        model: PreTrainedModel | None = None,
        *,
        input_ids: torch.Tensor | None = None,
        press: BasePress | None = None,
    ) -> None:
        """Write everything that the cache holds to a safetensors file; see `load`.

        The file appears complete and on disk or not at all; an existing one is replaced. What a press has masked is
        left out, as if the cache had been settled, but the cache itself does not change.

        Parameters
        ----------
        path : str or Path
            The file, in an existing folder.
        model : PreTrainedModel, optional
            The model that filled the cache. By default, the model in memory whose attention read the cache last.
        input_ids : torch.Tensor, optional
            Token ids in the cache, shape (batch, tokens). Their digest is stored, so that `load` can compare them.
        press : BasePress, optional
            The press that compressed the cache. Its settings are stored, and its `plan` if it has one: see
            `pikvpress.cache.saved_cache`.

        Raises
        ------
        ValueError
            If the model has to be given; a press is still at work on the cache; a codec cannot be found by its name.
        OSError
            If there is no such folder, or the file cannot be written, for example because the disk is full.
        """
        state = CacheState(self.layers, self._codecs, self._window, self._before, self._reached)
        save(Path(path), state, model, input_ids, press)

    @classmethod
    def load(
        cls, path: str | Path, model: PreTrainedModel, *, input_ids: torch.Tensor | None = None, verify: bool = False
    ) -> PiKVCache:
        """Return a cache from a file written by `save`, on which the model continues bit for bit as on the saved one.

        The file is mapped, not read: a layer is read, compared with its checksum and moved to the device of the model's
        layer when it is first needed. The file may be replaced meanwhile, but not changed in place.

        Parameters
        ----------
        path : str or Path
            The file.
        model : PreTrainedModel
            The model that filled the cache: all its weights must be the same, and their data type.
        input_ids : torch.Tensor, optional
            Token ids, shape (batch, tokens), to be compared with those given to `save`.
        verify : bool, default=False
            Whether to read and verify all layers now. Otherwise an altered layer raises its error when it is needed.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not a saved cache, is truncated or altered, was written by a newer version, or belongs to another
            model or other token ids.
        """
        state = load(Path(path), model, input_ids, verify)
        cache = cls(*state.codecs, window=state.window)
        cache.layers, cache._before, cache._reached = state.layers, state.before, state.reached
        return cache

    def __iter__(self) -> Iterator[tuple[Any, Any, None]]:
        """Yield each layer's keys and values, or placeholders for them, and None, as a `DynamicCache` does."""
        for layer in self.layers:
            layer.settle()
            yield layer.keys, layer.values, None

    @property
    def packs(self) -> bool:
        """Whether codecs pack contexts after the prefill."""
        return any(choice != EXACT for choice in self._codecs)

    @property
    def nbytes(self) -> int:
        """Bytes held: keys, values, scales, alignment, known padding entries, and calibrated directions."""
        bases = {id(choice): choice.nbytes for choice in self._codecs if isinstance(choice, Bases)}
        return sum(layer.nbytes for layer in self.layers) + sum(bases.values())

    def table(self) -> Table:
        """Return the contents of each layer as a table for `rich`."""
        table = Table("layer", "entries per head", "of", "keys", "values", "KiB", title="PiKVCache")
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
