"""The part of a PiKVCache that writes it to a file and reads it back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from pikvpress.cache.calibrated import Bases
from pikvpress.cache.codec import Codec
from pikvpress.cache.layer import PiKVLayer
from pikvpress.cache.saving.whole import CacheState, load, save

if TYPE_CHECKING:
    from kvpress import BasePress
    from typing_extensions import Self

    from pikvpress.cache.schedule import Schedule
    from pikvpress.cache.tiers.storage import Storage


class Savable:
    """A cache that can be saved; see `PiKVCache`, whose attributes these are."""

    layers: list[PiKVLayer]
    _schedule: Schedule | None
    _storage: Storage | None
    _codecs: tuple[Codec | Bases, Codec | Bases]
    _window: int
    _before: list[int]
    _reached: int

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
            If the model has to be given; a press is still at work on the cache; a codec or a scheduler cannot be
            found by its name.
        OSError
            If there is no such folder, or the file cannot be written, for example because the disk is full.
        """
        save(Path(path), self.state, model, input_ids, press)

    @classmethod
    def load(
        cls, path: str | Path, model: PreTrainedModel, *, input_ids: torch.Tensor | None = None, verify: bool = False
    ) -> Self:
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
        cache = cls()
        cache.take(load(Path(path), model, input_ids, verify))
        return cache

    @property
    def state(self) -> CacheState:
        """Everything that the cache holds."""
        return CacheState(self.layers, self._codecs, self._window, self._before, self._reached, self._schedule)

    def take(self, state: CacheState) -> None:
        """Hold this from now on, instead of what is held; the state must not be used for another cache."""
        self.layers, self._codecs, self._window = state.layers, state.codecs, state.window
        self._before, self._reached, self._schedule = state.before, state.reached, state.schedule
        for index, layer in enumerate(self.layers):
            layer.lie_in(self._storage, index)
