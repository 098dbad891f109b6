"""The schedule of a cache: one scheduler and one ceiling for all its layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pikvpress import models
from pikvpress.cache.angles import Angles
from pikvpress.cache.ceiling import Ceiling
from pikvpress.cache.codec import GROUP as PAGE
from pikvpress.cache.history import History
from pikvpress.cache.scheduler import Scheduler, known
from pikvpress.kvpress_at_hand import removes_while_decoding
from pikvpress.ranks import HeadShard, shard_of

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Schedule:
    """What the layers of a scheduled cache share.

    Parameters
    ----------
    scheduler : Scheduler
        The rule.
    ceiling : Ceiling
        The most that a layer may hold.
    window : int
        Number of recent entries that always stay.
    history : History
        What has been dropped when.
    layers : int, optional
        Number of layers of the model, once it is known.
    met : bool
        Whether the scheduler knows the model.
    of_press : bool
        Whether a press made the schedule after a prompt, so that it ends with the contents of the cache.
    angles : Angles
        Rotations of the recent entries, by their index in the first layer.
    longer : dict of int to int
        By how many entries a layer is longer than the first one, if a press left different numbers of a prompt.
    shard : HeadShard, optional
        The heads of the model that this rank holds, once it is known.

    Raises
    ------
    ValueError
        If the scheduler does not keep this kind of ceiling, or the ceiling is below the smallest cache.
    """

    scheduler: Scheduler
    ceiling: Ceiling
    window: int
    history: History = field(default_factory=History)
    layers: int | None = None
    met: bool = False
    of_press: bool = False
    angles: Angles = field(default_factory=Angles)
    longer: dict[int, int] = field(default_factory=dict)
    shard: HeadShard | None = None

    def __post_init__(self) -> None:
        if self.ceiling.kind not in self.scheduler.ceilings:
            allowed = " or ".join(f"{kind}=" for kind in self.scheduler.ceilings)
            raise ValueError(
                f"scheduler {self.scheduler.name!r} does not keep {self.ceiling.kind}: give it {allowed} instead"
            )
        if self.ceiling.max_bytes is None:  # that of bytes is checked when the model is known
            self.ceiling.quota(self.window, 0, 0, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Schedule:
        """Return a copy for a copied cache, which lies on the same ranks."""
        history, angles = self.history.copied(), self.angles.copied()
        return replace(self, history=history, angles=angles, longer=dict(self.longer))

    @property
    def recent(self) -> int:
        """The most recent entries that a layer holds between two forwards, and one more."""
        return self.window + PAGE

    def __str__(self) -> str:
        """Return the scheduler and the ceiling in words."""
        return f"{self.scheduler.name}: {self.ceiling}"

    def announce(self, before: Schedule | None) -> None:
        """Say which statistics of the entries already held are not known, because no schedule recorded them."""
        known = () if before is None else before.scheduler.statistics + before.scheduler.measures
        missing = [name for name in self.scheduler.statistics + self.scheduler.measures if name not in known]
        if missing:
            logger.warning(
                "scheduler %r begins to record %s now: entries that the cache already holds count as never observed",
                self.scheduler.name,
                " and ".join(missing),
            )

    def meet(self, module: models.Attention) -> None:
        """Learn what is needed of a model from its first layer, unless it is known already.

        Raises
        ------
        ValueError
            If the scheduler lacks something, a layer has a sliding window, or attention has sinks or bounded logits.
            Nothing is changed then.
        """
        if self.met:
            return
        config = module.config
        kinds = getattr(config, "layer_types", None) or []
        if models.is_sliding(module) or any(kind != "full_attention" for kind in kinds):
            raise ValueError(
                f"this model has layers with sliding-window attention, whose entries scheduler "
                f"{self.scheduler.name!r} cannot drop, so that no ceiling would hold: use a PiKVCache() without a "
                "scheduler"
            )
        bounded = getattr(config, "attn_logit_softcapping", None) is not None and config._attn_implementation != "sdpa"
        if bounded or getattr(module, "sinks", None) is not None:
            raise ValueError(
                f"this model has attention with {'bounded logits' if bounded else 'sinks'}, which scheduler "
                f"{self.scheduler.name!r} would leave out: use a PiKVCache() without a scheduler"
            )
        shard = shard_of(module)
        self.scheduler = self.scheduler.for_model(module)
        self.layers, self.met, self.shard = int(config.num_hidden_layers), True, shard

    def check_presses(self, module: models.Attention, prompt: bool) -> None:
        """Raise a ``ValueError`` if presses on a module would decide about the same entries."""
        for press in models.presses_of(module):
            if prompt or removes_while_decoding(press):
                raise ValueError(
                    f"{type(press).__name__} and scheduler {self.scheduler.name!r} would both decide what is kept: use "
                    "MoERouterPress or PiKVPress with decoding=True, or call cache.schedule(...) after the prefill"
                )


def schedule_for(
    choice: str | Scheduler | None,
    limits: Mapping[str, Any],
    window: int,
    before: Schedule | None,
    module: models.Attention | None,
) -> Schedule | None:
    """Return a schedule with these settings, which goes on from the one before.

    Parameters
    ----------
    choice : str or Scheduler or None
        The scheduler; None for no schedule.
    limits : mapping of str to object
        The arguments of `Ceiling`; if all are None, the ceiling stays as before.
    window : int
        Number of recent entries that always stay.
    before : Schedule, optional
        The present schedule of the cache.
    module : Attention, optional
        The first layer of the model, if it is at hand.

    Raises
    ------
    ValueError
        If the settings do not fit each other or the model.
    """
    given = any(limit is not None for limit in limits.values())
    if choice is None:
        if given:
            raise ValueError("a ceiling needs a scheduler to keep it: name one, such as 'saliency' or 'h2o'")
        return None
    ceiling = Ceiling(**limits) if given or before is None else before.ceiling
    schedule = Schedule(known(choice), ceiling, window)
    if before is not None:
        schedule.history, schedule.angles = before.history.copied(), before.angles.copied()
        schedule.layers, schedule.shard = before.layers, before.shard
    if module is not None:
        schedule.meet(module)
    return schedule
