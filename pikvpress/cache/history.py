"""The history of a scheduled cache: how many entries its heads held over time, and how many were dropped when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


STEPS = 128  # kept of each layer: a panel of the picture shows hardly more


@dataclass(frozen=True)
class Step:
    """What a layer did when entries left its recent window, once or several times in a row.

    Parameters
    ----------
    layer : int
        Index of the layer.
    length : int
        Number of tokens that it had read, the last time.
    scheduler : str
        Name of the scheduler; several, separated by commas, if it was changed from one time to another.
    held : tuple of int
        Entries that each head of each row held afterwards, recent ones included.
    dropped : tuple of int
        Entries that each of these heads dropped, all times together.
    times : int, default=1
        How many times the step sums up.
    """

    layer: int
    length: int
    scheduler: str
    held: tuple[int, ...]
    dropped: tuple[int, ...]
    times: int = 1

    def then(self, later: Step) -> Step:
        """Return one step for this and a later one of the same heads."""
        names = dict.fromkeys([*self.scheduler.split(", "), *later.scheduler.split(", ")])
        dropped = tuple(map(sum, zip(self.dropped, later.dropped, strict=True)))
        return replace(later, scheduler=", ".join(names), dropped=dropped, times=self.times + later.times)


class History:
    """The steps of a cache.

    Its size is bounded, however long the cache is used: once a layer has more than 128 steps, every two of them become
    one, and later ones sum up as many times. Numbers of dropped entries stay true, and so does what heads held at each
    step. Only steps before and after a change of the batch are not summed up, since their heads are not the same.

    Parameters
    ----------
    steps : iterable of Step
        Steps to begin with, in order.

    Examples
    --------
    >>> cache = PiKVCache(scheduler="h2o", max_tokens=1024)
    >>> model.generate(**inputs, past_key_values=cache, max_new_tokens=4000)
    >>> cache.history.plot("held.png")
    """

    def __init__(self, steps: Iterable[Step] = ()):
        self._layers: dict[int, list[Step]] = {}
        self._times: dict[int, int] = {}  # how many times a step of a layer sums up at most
        for step in steps:
            self.add(step)

    @property
    def steps(self) -> list[Step]:
        """The steps of all layers, layer by layer, in order."""
        return [step for layer in sorted(self._layers) for step in self._layers[layer]]

    def add(self, step: Step) -> None:
        """Add the latest step of a layer."""
        steps = self._layers.setdefault(step.layer, [])
        self._times[step.layer] = max(self._times.get(step.layer, 1), step.times)
        _append(steps, step, self._times[step.layer])
        if len(steps) > STEPS:
            self._times[step.layer] *= 2
            coarser: list[Step] = []
            for each in steps:
                _append(coarser, each, self._times[step.layer])
            self._layers[step.layer] = coarser

    def copied(self) -> History:
        """Return a copy to which steps can be added independently."""
        copy = History()
        copy._layers = {layer: list(steps) for layer, steps in self._layers.items()}
        copy._times = dict(self._times)
        return copy

    def dropped(self) -> dict[int, int]:
        """Return the number of entries that each layer has dropped, of all heads together."""
        return {layer: sum(sum(step.dropped) for step in steps) for layer, steps in self._layers.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the history as plain dicts, lists and numbers."""
        return {"steps": [asdict(step) for step in self.steps]}

    def __str__(self) -> str:
        """Return one line for each layer."""
        dropped = self.dropped()
        latest = [steps[-1] for _, steps in sorted(self._layers.items())]
        return "\n".join(
            f"layer {step.layer:>2}: {dropped[step.layer]} dropped, the last of {step.length} tokens, by "
            f"{step.scheduler}; {min(step.held)} to {max(step.held)} a head held"
            for step in latest
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
        if not self._layers:
            raise ValueError("nothing has left the recent window yet: there is no history to plot")
        from matplotlib.figure import Figure  # imported late: plotting is optional, and the import takes a second

        layers = sorted(self._layers)
        columns = min(6, len(layers))
        rows = -(-len(layers) // columns)
        figure = Figure(figsize=(2.0 * columns + 0.8, 1.5 * rows + 0.8), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
        for panel, layer in zip(panels, layers, strict=False):
            for _, alike in groupby(self._layers[layer], key=lambda step: len(step.held)):
                steps = [*alike]  # of one batch
                lengths, held = [step.length for step in steps], [step.held for step in steps]
                panel.plot(lengths, held, drawstyle="steps-post", lw=0.9)
            panel.set_title(f"layer {layer}", fontsize=8)
            panel.tick_params(labelsize=7)
        for panel in [*panels][len(layers) :]:
            panel.set_axis_off()
        figure.supxlabel("tokens read", fontsize=8)
        figure.supylabel("entries held, by head", fontsize=8)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


def _append(steps: list[Step], step: Step, times: int) -> None:
    """Append a step, or sum it up with the last one if both together are of at most so many times."""
    if steps and steps[-1].times + step.times <= times and len(steps[-1].held) == len(step.held):
        steps[-1] = steps[-1].then(step)
    else:
        steps.append(step)
