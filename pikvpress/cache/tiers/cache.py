"""The part of a PiKVCache that holds its layers on tiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pikvpress.cache.forwards import Forwards
from pikvpress.cache.layer import PiKVLayer
from pikvpress.cache.tiers.storage import Storage
from pikvpress.cache.tiers.tiers import TIERS, Tiers


class Tiered(Forwards):
    """A cache whose layers may lie on slower tiers; see `PiKVCache`, whose attributes these are."""

    _storage: Storage | None = None
    if TYPE_CHECKING:

        @property
        def nbytes(self) -> int:
            """Bytes held."""

    @property
    def tiers(self) -> Tiers | None:
        """The tiers on which the cache lies, or None if all of it stays on the device."""
        return None if self._storage is None else self._storage.tiers

    def place(self, tiers: Tiers | Mapping[str, float] | None) -> None:
        """Hold the layers on these tiers from now on; may be called between two tokens.

        Parameters
        ----------
        tiers : Tiers or mapping of str to float or None
            See `Tiers`; None to fetch everything to the device.

        Raises
        ------
        ValueError, TypeError
            For tiers that are wrong. The cache is then unchanged.
        OSError
            If a file cannot be written, for example because the disk is full. Layers that could not be moved stay
            where they were.
        """
        self._storage = None if tiers is None else Storage(Tiers.of(tiers))
        for index, layer in enumerate(self.layers):
            layer.lie_in(self._storage, index)
        for layer in self.layers:
            layer.move()

    def tier_bytes(self) -> dict[str, int]:
        """Return the bytes on each tier; their sum is `nbytes`. Has no side effects."""
        found = dict.fromkeys(TIERS, 0)
        for layer in self.layers:
            for tier, nbytes in layer.tier_bytes().items():
                found[tier] += nbytes
        found["device"] += self.nbytes - sum(found.values())  # what layers share
        return found

    def _turn_to(self, index: int) -> None:
        """Put the layer away that was read before this one, and begin to fetch the one after it.

        Raises
        ------
        OSError
            If a file cannot be written. The cache is then restored to its state before this forward.
        """
        if self._storage is None:
            return
        before, after = self.layers[index - 1], self.layers[(index + 1) % len(self.layers)]
        if isinstance(before, PiKVLayer) and before is not self.layers[index]:
            try:
                before.rest()
            except OSError:
                self._undo()
                raise
        if self._storage.tiers.prefetch and isinstance(after, PiKVLayer):
            after.prefetch()
