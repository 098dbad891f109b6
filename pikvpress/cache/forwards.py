"""The part of a PiKVCache that undoes a forward that was not completed."""

from __future__ import annotations

from pikvpress.cache.layer import PiKVLayer


class Forwards:
    """A cache that knows where the latest forward began; see `PiKVCache`, whose attributes these are."""

    layers: list[PiKVLayer]
    _before: list[int]  # lengths of the layers before the latest forward
    _reached: int  # the last layer that it reached

    def _begin(self) -> None:
        """Record where a forward begins; undo the previous one if it was not completed."""
        expected = self.layers[0].depth if self.layers and isinstance(self.layers[0], PiKVLayer) else None
        if expected is not None and self._reached < expected - 1:
            reached = self._reached
            self._undo()
            raise ValueError(
                f"an earlier forward ended in layer {reached} of {expected}; the cache has been restored to the "
                f"{self.layers[0].get_seq_length()} entries before it: run the model on it again"
            )
        self._before = [layer.get_seq_length() for layer in self.layers]

    def _undo(self) -> None:
        """Restore the lengths from before the latest forward."""
        self._reached = (self.layers[0].depth or len(self.layers)) - 1
        for layer, length in zip(self.layers, [*self._before, *[0] * len(self.layers)], strict=False):
            if length == 0:
                layer.reset()
            else:
                layer.shorten(length)
