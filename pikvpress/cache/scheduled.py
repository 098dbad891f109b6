"""A layer that a schedule may keep within a ceiling."""

from __future__ import annotations

import torch

from pikvpress import models
from pikvpress.cache.angles import rotation_at
from pikvpress.cache.compressible import CompressibleLayer
from pikvpress.cache.entries import Entries
from pikvpress.cache.keeper import Keeper
from pikvpress.cache.schedule import Schedule
from pikvpress.kernels.column_sums import column_sums
from pikvpress.kernels.window_scores import received_attention

PADDED = (
    "the batch is padded, and pages of padding would be kept in place of text: read contexts one at a time, or batches "
    "of contexts of equal length, with scheduler"
)


class ScheduledLayer(CompressibleLayer):
    """Entries of one layer, which a keeper drops as they leave the recent window if the cache is scheduled."""

    def keeper_for(self, schedule: Schedule | None, index: int) -> Keeper | None:
        """Return a keeper of the layer's entries for a schedule, without applying it; None without a schedule.

        Raises
        ------
        ValueError
            If the ceiling is below the smallest cache, or the batch is padded.
        """
        if schedule is None:
            return None
        padded = self._was_padded or self._follows_padding
        if self.is_initialized and (padded or self._known_padding() is not None or self._differs()):
            raise ValueError(f"{PADDED} {schedule.scheduler.name!r}")
        if self.keeper is not None:
            keeper = self.keeper.switched(schedule, self.entries)
        else:
            codecs = self._following or (self._key_codec, self._value_codec)
            keeper = Keeper(schedule, index, codecs, self.entries.with_context_only())
        if schedule.layers is not None:
            keeper.check(self.entries)
        return keeper

    def _differs(self) -> bool:
        """Return whether rows have different codecs, as a press chooses them for a padded batch."""
        heads = self.entries.tail.keys.shape[1]
        return self._following is not None and any(len(side) != heads for side in self._following)

    def follow(self, keeper: Keeper | None, entries: Entries) -> None:
        """Be kept by a keeper from now on, with these entries."""
        self.keeper, self.entries, self._following = keeper, entries, None

    def refuse_to_schedule(
        self, module: models.Attention, tokens: int, hidden: torch.Tensor | None, positions: torch.Tensor | None
    ) -> None:
        """Check whether tokens that were just appended can be scheduled; if not, remove them again.

        Parameters
        ----------
        module : Attention
            The module that reads them.
        tokens : int
            Their number.
        hidden : torch.Tensor, optional
            Which entries the last of them must not see; looked at only in a prompt and when entries leave the window.
        positions : torch.Tensor, optional
            Their positions, shape (batch, tokens).

        Raises
        ------
        ValueError
            If a press would decide too, the batch is padded, or the model, the scheduler and the ceiling do not fit.
        """
        assert self.keeper is not None
        prompt, schedule = tokens == self.entries.length, self.keeper.schedule
        try:
            schedule.check_presses(module, prompt)
            schedule.meet(module)
            if module.layer_idx == 0 and schedule.scheduler.measures and schedule.angles.last < self.entries.length:
                rotation = rotation_at(module, self.entries.tail.keys, positions)  # the model has not told the cache
                schedule.angles.add(self.entries.length - tokens, *rotation)
            if prompt:
                self.keeper.check(self.entries)
            if hidden is not None and (prompt or self.keeper.leaves(self.entries)) and bool(hidden.any()):
                raise ValueError(f"{PADDED} {schedule.scheduler.name!r}")
        except ValueError:
            self.shorten(self.entries.length - tokens)
            raise

    def was_read(self, query: torch.Tensor, scaling: float | None) -> None:
        """Record that queries of the latest entries, shape (batch, heads, tokens, head_dim), read the dense layer."""
        assert self.keeper is not None
        received, keys = None, self.entries.tail.keys
        if self.keeper.watches:  # the model's own attention does not return its weights
            sums = column_sums if query.shape[2] == keys.shape[2] else received_attention
            received = sums(query, keys, query.shape[3] ** -0.5 if scaling is None else scaling)
        self.entries = self.keeper.after_reading(self.entries, received, query.shape[2])

    def shorten(self, max_length: int) -> None:
        """Remove the latest entries so that at most ``max_length`` are left."""
        raise NotImplementedError
