"""PiKVCache: a transformers cache that really frees the entries that a press removes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import Cache

from pikvpress.cache.calibrated import Bases
from pikvpress.cache.choice import known, of_layer
from pikvpress.cache.codec import Codec
from pikvpress.cache.codecs import EXACT
from pikvpress.cache.history import History
from pikvpress.cache.joining import Joinable
from pikvpress.cache.layer import ZERO_REMOVES_NONE, PiKVLayer
from pikvpress.cache.readers import READERS
from pikvpress.cache.saving import Savable
from pikvpress.cache.schedule import Schedule, schedule_for
from pikvpress.cache.scheduler import Scheduler
from pikvpress.cache.table import contents
from pikvpress.cache.tiers import Tiers
from pikvpress.cache.tiers.cache import Tiered


class PiKVCache(Joinable, Savable, Tiered, Cache):
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
        If a codec is not exact, or with a scheduler: number of most recent entries, of the context and of later
        entries, that stay as they are.
    scheduler : str or Scheduler, optional
        How the cache stays within a ceiling while it reads and while it generates, see `schedule`. By default
        "saliency" if a ceiling is given, otherwise none.
    max_tokens, max_bytes, ratio : optional
        The ceiling, see `schedule`.
    tiers : Tiers or mapping of str to float, optional
        Shares of the cache on "device", "host" and "file", see `pikvpress.cache.Tiers`. By default all of it stays on
        the device.

    Raises
    ------
    ValueError
        For an unknown codec or scheduler, a negative window, a ceiling that is missing or too low, or tiers that are
        wrong; from a forward, if an earlier forward ended in an error.

    Examples
    --------
    >>> cache = PiKVCache()
    >>> pipe(context, questions=questions, press=AdaKVPress(MoERouterPress(0.75)), cache=cache)
    >>> cache.nbytes
    >>> cache = PiKVCache(scheduler="h2o", max_tokens=1024)
    >>> model.generate(**inputs, past_key_values=cache, max_new_tokens=10_000)
    """

    layers: list[PiKVLayer]  # type: ignore[assignment]

    def __init__(
        self,
        key_codec: str | Codec | Bases = "exact",
        value_codec: str | Codec | Bases = "exact",
        window: int = 128,
        scheduler: str | Scheduler | None = None,
        max_tokens: int | None = None,
        max_bytes: int | None = None,
        ratio: float | None = None,
        tiers: Tiers | Mapping[str, float] | None = None,
    ):
        if window < 0:
            raise ValueError(f"window must be at least 0 entries, got {window}")
        super().__init__(layers=[])
        self._codecs, self._window = (known(key_codec), known(value_codec)), window
        self._before, self._reached = [], -1
        self._schedule: Schedule | None = None
        if scheduler is not None or (max_tokens, max_bytes, ratio) != (None, None, None):
            self.schedule(scheduler or "saliency", max_tokens=max_tokens, max_bytes=max_bytes, ratio=ratio)
        self.place(tiers)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *told: Any, **of_module: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append entries to a layer; earlier layers are settled in the process.

        Raises
        ------
        ValueError
            If an earlier forward ended before its last layer. The cache is then restored to its state before that
            forward.
        OSError
            If a layer cannot be moved to a file. The cache is then restored to its state before this forward.
        """
        if layer_idx == 0:
            self._begin()
        while len(self.layers) <= layer_idx:
            self.layers.append(self._new_layer(len(self.layers)))
        if layer_idx > 0 and isinstance(self.layers[layer_idx - 1], PiKVLayer):
            self.layers[layer_idx - 1].settle()
        self._turn_to(layer_idx)
        self._reached = layer_idx
        layer = self.layers[layer_idx]
        keys, values = layer.update(key_states, value_states, *told, **of_module)
        if not isinstance(layer, PiKVLayer):  # KVgrad replaces our layers while it scores their contents
            READERS.give(keys, None)
        return keys, values

    def _new_layer(self, index: int) -> PiKVLayer:
        layer = PiKVLayer(*of_layer(self._codecs, index), self._window)
        layer.keeper = layer.keeper_for(self._schedule, index)
        layer.lie_in(self._storage, index)
        return layer

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

    def schedule(
        self,
        scheduler: str | Scheduler | None,
        *,
        max_tokens: int | None = None,
        max_bytes: int | None = None,
        ratio: float | None = None,
    ) -> None:
        """Keep the cache within a ceiling from now on, or change how; may be called between two tokens.

        What is already compressed by a press or a codec stays, and counts; everything else, and what comes later, is
        scheduled. The ceiling then holds in every layer, after each reading and while a token is generated; while
        several tokens are read at once, they come on top.

        Parameters
        ----------
        scheduler : str or Scheduler or None
            One of `pikvpress.schedulers.SCHEDULERS`, by name or as an instance with other settings; None to keep all
            later entries.
        max_tokens : int, optional
            Entries that a KV head holds at most, on average over the heads.
        max_bytes : int, optional
            Bytes that the cache holds at most, including what the scheduler records.
        ratio : float, optional
            Share of what was read so far that is removed, in [0, 1).
            Without any of the three, the ceiling stays as it was.

        Raises
        ------
        ValueError
            For an unknown scheduler, a missing or several ceilings, one that is below the smallest cache or that the
            scheduler cannot keep, a padded batch, a model with sliding-window attention, attention sinks or bounded
            logits, or a scheduler without what it needs. The cache is then unchanged. If the model is not known, as for
            a copy of a cache, what depends on it is checked, and the ceiling takes effect, when it reads.
        """
        self.settle()
        module = READERS.last_reader(self.layers[0]) if self.layers and self.layers[0].is_initialized else None
        limits = {"max_tokens": max_tokens, "max_bytes": max_bytes, "ratio": ratio}
        new = schedule_for(scheduler, limits, self._window, self._schedule, module)
        if new is None and self._schedule is None:
            return
        if new is not None:
            lengths = [layer.get_seq_length() for layer in self.layers]
            new.longer = {index: length - lengths[0] for index, length in enumerate(lengths)}
        keepers = [layer.keeper_for(new, index) for index, layer in enumerate(self.layers)]
        entries = [layer.entries.with_context_only() if new is not None else layer.entries for layer in self.layers]
        if new is not None and new.layers is not None:
            entries = [
                keeper.enforced(held, at_once=True) if keeper is not None and layer.is_initialized else held
                for layer, keeper, held in zip(self.layers, keepers, entries, strict=True)
            ]
            if any(keeper is not None and keeper.governs(held) for keeper, held in zip(keepers, entries, strict=True)):
                new.announce(self._schedule)
        self._schedule = new
        for layer, keeper, held in zip(self.layers, keepers, entries, strict=True):
            layer.follow(keeper, held)
            layer.rest_if_possible()

    @property
    def current_schedule(self) -> Schedule | None:
        """The schedule by which the cache stays within its ceiling, or None."""
        return self._schedule

    @property
    def history(self) -> History:
        """What the scheduler has dropped when, and how much each head held."""
        return History() if self._schedule is None else self._schedule.history

    def settle(self) -> None:
        """Immediately remove the entries that a press has masked, pack entries as codecs require, and fill the tiers.

        The cache does this automatically when it is used again, and for each layer when the next layer is read. Calling
        it matters for the memory of the last layer, and after presses that mask at the end, such as KVzipPress.

        Raises
        ------
        ValueError
            If a layer cannot be compressed. That layer and those after it are then unchanged.
        OSError
            If a layer cannot be moved to a file. It then stays in memory.
        """
        for layer in self.layers:
            layer.settle()
            layer.rest()

    def crop(self, max_length: int) -> None:
        """Remove the latest entries so that at most ``max_length`` are left; a negative value is the number to remove.

        0 removes what it removes in caches of the installed transformers: everything, or nothing in later versions.

        Raises
        ------
        ValueError
            If the new end would be inside a compressed context, or more entries would be removed than there are.
            Nothing is cropped in this case.
        """
        if max_length == 0 and ZERO_REMOVES_NONE:
            return
        for layer in self.layers:
            layer.length_after_crop(max_length)
        super().crop(max_length)
        if max_length == 0:
            self._before, self._reached = [], len(self.layers) - 1

    def reset(self) -> None:
        """Clear everything except the settings."""
        super().reset()
        self._before, self._reached = [], len(self.layers) - 1

    def to(self, device: torch.device | str | None) -> PiKVCache:
        """Move everything to a device, unless it is None as accelerate passes it, and return the cache."""
        if device is not None:
            for layer in self.layers:
                layer.to(device)
        return self

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
        """Return the contents of each layer as a table for `rich`, with the scheduler's pages and the tiers."""
        return contents(self.layers, self._schedule, self.tiers)

    def __str__(self) -> str:
        """Return the table as text."""
        console = Console(width=100)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()
