"""The history of a scheduled cache: how many entries its heads held over time, and how many were dropped when."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Step:
    """What a layer did when entries left its recent window.

    Parameters
    ----------
    layer : int
        Index of the layer.
    length : int
        Number of tokens that it had read.
    scheduler : str
        Name of the scheduler.
    held : tuple of int
        Entries that each head of each row held afterwards, recent ones included.
    dropped : tuple of int
        Entries that each of these heads dropped.
    """

    layer: int
    length: int
    scheduler: str
    held: tuple[int, ...]
    dropped: tuple[int, ...]


@dataclass
class History:
    """All steps of a cache, in order.

    Examples
    --------
    >>> cache = PiKVCache(scheduler="h2o", max_tokens=1024)
    >>> model.generate(**inputs, past_key_values=cache, max_new_tokens=4000)
    >>> cache.history.plot("held.png")
    """

    steps: list[Step] = field(default_factory=list)

    def copied(self) -> History:
        """Return a copy to which steps can be added independently."""
        return History(list(self.steps))

    def dropped(self) -> dict[int, int]:
        """Return the number of entries that each layer has dropped, of all heads together."""
        totals: dict[int, int] = {}
        for step in self.steps:
            totals[step.layer] = totals.get(step.layer, 0) + sum(step.dropped)
        return totals

    def to_dict(self) -> dict[str, Any]:
        """Return the history as plain dicts, lists and numbers."""
        return asdict(self)

    def __str__(self) -> str:
        """Return one line for each layer."""
        latest = {step.layer: step for step in self.steps}
        dropped = self.dropped()
        return "\n".join(
            f"layer {layer:>2}: {dropped[layer]} dropped, the last of {step.length} tokens, by {step.scheduler}; "
            f"{min(step.held)} to {max(step.held)} a head held"
            for layer, step in sorted(latest.items())
        )

    def plot(self, path: str | Path | None = None) -> Figure:
        """Plot the entries held by each head over the tokens read, one panel per layer.

        Parameters
        ----------
        path : str or Path, optional
            File to save the figure to; its suffix determines the format.

        Raises
        ------
        ValueError
            If nothing has left the recent window yet.
        """
        if not self.steps:
            raise ValueError("nothing has left the recent window yet: there is no history to plot")
        from matplotlib.figure import Figure  # imported late: plotting is optional, and the import takes a second

        layers = sorted({step.layer for step in self.steps})
        columns = min(6, len(layers))
        rows = -(-len(layers) // columns)
        figure = Figure(figsize=(2.0 * columns + 0.8, 1.5 * rows + 0.8), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
        for panel, layer in zip(panels, layers, strict=False):
            steps = [step for step in self.steps if step.layer == layer]
            panel.plot([step.length for step in steps], [step.held for step in steps], drawstyle="steps-post", lw=0.9)
            panel.set_title(f"layer {layer}", fontsize=8)
            panel.tick_params(labelsize=7)
        for panel in [*panels][len(layers) :]:
            panel.set_axis_off()
        figure.supxlabel("tokens read", fontsize=8)
        figure.supylabel("entries held, by head", fontsize=8)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure
