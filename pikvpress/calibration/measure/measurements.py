"""The folder with a calibration's measurements, from which an interrupted calibration resumes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.calibration.data.situations import Situation
from pikvpress.calibration.measure.collect import collect
from pikvpress.calibration.measure.examine import look
from pikvpress.calibration.measure.record import Record, described, save
from pikvpress.calibration.recipe import Recipe
from pikvpress.calibration.steps import Progress, Steps
from pikvpress.experts import Expert, SaliencyScorer


class Measurements:
    """Measurements of situations; existing ones are reused.

    Parameters
    ----------
    folder : Path
        An existing folder for the measurements.
    model : PreTrainedModel
        The model, which is restored at the end.
    recipe : Recipe
        Defines how many situations are measured, and how.
    """

    def __init__(self, folder: Path, model: PreTrainedModel, recipe: Recipe):
        self.folder, self._model, self._recipe = folder, model, recipe
        self._scaling = [layer.scaling for layer in models.attention_layers(model)]

    def collect(
        self, situations: Sequence[Situation], held: Sequence[Situation], apart: int, steps: Steps
    ) -> dict[str, list[Path]]:
        """Measure as many situations as time permits.

        Parameters
        ----------
        situations, held : sequence of Situation
            Situations to fit on, and held-out ones.
        apart : int
            Situations reserved for the saliency expert per situation to fit routers on.
        steps : Steps
            Called after every situation.

        Returns
        -------
        dict of str to list of Path
            Files of situations to fit routers on, "fit"; of those after them, "apart"; and of held-out ones, "held".
        """
        first = [self._measured("fit", number, situations[number]) for number in range(2)]
        count = self._recipe.contexts_for(min(Record(path).seconds for path in first))  # the first one also warms up
        used = {
            "fit": range(count),
            "apart": range(count, count * (1 + apart)),
            "held": range(self._recipe.held_out_for(count)),
        }
        total, paths = sum(map(len, used.values())), dict[str, list[Path]]()
        for use, numbers in used.items():
            name, made = ("held", held) if use == "held" else ("fit", situations)
            paths[use] = []
            for number in numbers:
                steps.collected(sum(map(len, paths.values())), total)
                paths[use].append(self._measured(name, number, made[number]))
        return paths

    def examine(
        self, paths: Sequence[Path], situations: Sequence[Situation], experts: Sequence[Expert], progress: Progress
    ) -> list[Record]:
        """Examine measured situations with experts, into separate files, since the result depends on fitted weights."""
        fitted = [expert.press for expert in experts if isinstance(expert.press, SaliencyScorer)]
        weights = [part for press in fitted for part in (press.weights, press.hidden_weights) if part is not None]
        digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in weights)).hexdigest()[:12]
        records = []
        for path, situation in zip(paths, situations, strict=True):
            seen = path.with_name(f"{path.stem}-seen{digest}.safetensors")
            if not seen.exists():
                save(seen, look(self._model, situation.context, experts, self._recipe.ratios))
            progress("examining")
            records.append(Record(path, seen))
        return records

    def _measured(self, name: str, number: int, situation: Situation) -> Path:
        path = self.folder / f"{name}-{number:03d}.safetensors"
        if not path.exists():
            began = time.perf_counter()
            tensors = collect(self._model, situation, self._recipe.gradient_samples, number)
            save(path, tensors, **described(situation.kind, self._scaling, time.perf_counter() - began))
        return path
