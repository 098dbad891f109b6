"""Every number of a calibration, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pikvpress.routers import ROUTERS, Router, RouterSettings

MEASURED_BY = ("ratios", "gradient_samples")  # what files of measurements depend on, beside their contexts


@dataclass(frozen=True)
class Recipe:
    """What a calibration does, in numbers.

    "Compared" below means: on held-out contexts of the texts that ship, with SmolLM2-135M-Instruct. What has no source
    is a round number that nothing else was compared with.

    Parameters
    ----------
    minutes : float, default=15
        About how long it may take, if `contexts` does not say how many there are.
    contexts : int, optional
        Contexts to fit routers on.
    length : int, default=1024
        Tokens of a context.
    experts : tuple of str, optional
        Candidates. By default `pikvpress.experts.CANDIDATES`.
    max_experts : int, default=4
        Most experts of the gates. Each costs time in every prefill.
    routers : tuple of str, optional
        Routers to fit, the first of them end to end. By default all, "pikv" first.
    objective : str or None, default="kl"
        What the end-to-end stage minimises; None leaves the stage out.
    seed : int, default=0
        Random seed.
    settings : RouterSettings
        What routers are told while they are fitted. By default what `MoERouterPress` is told by default.
    router_classes : mapping of str to type of Router, optional
        What each name in `routers` stands for: `pikvpress.routers.ROUTERS`, unless others are to be compared with them.
    fewest_contexts, most_contexts : int, default=4, 64
        Bounds of what `minutes` decides. Further contexts than 64 did not fit in the default time.
    collecting : float, default=0.0375
        Share of the minutes in which the contexts to fit routers on are measured, by how long the steps of a
        calibration take on two cores.
    saliency_contexts : int, default=4
        Contexts that the saliency expert is fitted on, for each context that routers are fitted on: they are others, so
        that routers see the expert as it is on new text.
    held_out_documents : int, default=4
        Of so many documents one is held out.
    held_out : int, default=10
        Held-out contexts that decide: two of each kind of situation. Half were too few: the measured part of the
        gates was trusted where it should not have been. With few contexts to fit on they are 2 and half as many, with
        many a quarter.
    fewest_tokens : int, default=256
        Of a context.
    continued, quoted : int, default=64, 40
        Tokens of a continuation, and fewest tokens of a quotation.
    ratios : tuple of float, default=(0.5, 0.75, 0.875)
        Compression ratios that experts are told and gates are fitted for, ascending.
    gradient_samples : int, default=2
        Labels that gradients of predictions are taken for, of each token.
    keep_shares : tuple of float
        Shares of the keys kept, descending from 1, at which error curves are measured.
    codec_pairs : tuple of (str, str)
        Codecs of keys and values, the dearest first, whose error curves are measured. Keys need as many bits as values
        or more.
    rows : int, default=96
        Queries of a head that fitting looks at: those with the largest gradients carry most of what is lost.
    softness : float, default=0.05
        Of the selection, in ranks, where gradients flow through it.
    sharpness : float, default=2
        Of the blend that fitting starts from: weights fall with the square of what an expert costs.
    epochs : int, default=9
        Of the first router, in each of its two stages, and of the blend that experts are chosen by.
    epochs_of_others : int, default=2
        Of the other routers, which start where the first one ended.
    learning_rate : float, default=0.05
        Of routers' parameters, layer by layer.
    slowing : float, default=0.9
        Share of its learning rate that a fit layer by layer loses, linearly, by its end.
    averaged : int, default=3
        The result of a fit is the mean over the last of so many parts of its steps: single contexts move parameters
        about.
    epochs_end_to_end : int, default=8
        Of the end-to-end stage. More overfit 24 contexts.
    learning_rate_end_to_end : float, default=0.01
        Of the end-to-end stage; five times this diverges.
    accumulated : int, default=4
        Situations whose gradients make one step of the end-to-end stage.
    accepted : int, default=25
        Of the teacher's best tokens a student's proposal may be: speculative knowledge distillation
        (https://arxiv.org/abs/2410.11325).
    epochs_of_saliency : int, default=2
        Of the saliency expert's fit by gradients.
    learning_rate_of_saliency : float, default=0.005
        In standard deviations of a head's features.
    softness_of_saliency : float, default=0.2
        Of its selection, in standard deviations of a head's scores.
    ridge : float, default=0.003
        Pull of the saliency regression towards 0, in variances of the features.
    floor : float, default=0.01
        Of the saliency, in means of a head: below it keys are alike.
    fewest_experts : int, default=2
        A router of one expert would route nothing.
    worth : float, default=0.02
        Least share of the blend, averaged over heads, for which a third expert or a further one is computed at all.
    least_gain : float, default=0.02
        How much of the divergence looking at the input must win: it takes time in every prefill.
    shown_keys : int, default=1024
        Context length for which the report shows fitted budgets; shares hardly depend on it.
    bases_entries : int, default=512
        Entries of a context that the correction of calibrated bases is learned from.
    bases_units, bases_steps, bases_batch : int, default=64, 600, 256
        Hidden units of the correction, and steps and entries a step that it is learned in.
    bases_rate, bases_decay : float, default=0.003, 0.01
        Learning rate and weight decay of the correction.

    Raises
    ------
    ValueError
        For a value out of its range: names it and what is allowed.
    """

    minutes: float = 15.0
    contexts: int | None = None
    length: int = 1024
    experts: tuple[str, ...] | None = None
    max_experts: int = 4
    routers: tuple[str, ...] | None = None
    objective: str | None = "kl"
    seed: int = 0
    settings: RouterSettings = field(default_factory=RouterSettings)
    router_classes: Mapping[str, type[Router]] = field(default_factory=lambda: ROUTERS)

    fewest_contexts: int = 4
    most_contexts: int = 64
    collecting: float = 0.0375
    saliency_contexts: int = 4
    held_out_documents: int = 4
    held_out: int = 10
    fewest_tokens: int = 256
    continued: int = 64
    quoted: int = 40

    ratios: tuple[float, ...] = (0.5, 0.75, 0.875)
    gradient_samples: int = 2
    keep_shares: tuple[float, ...] = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.0625, 0.03125)
    codec_pairs: tuple[tuple[str, str], ...] = (
        ("exact", "exact"),
        ("int8", "int8"),
        ("int8", "rot4"),
        ("rot4", "rot4"),
        ("rot4", "rot3"),
        ("rot4", "rot2"),
        ("rot3", "rot3"),
        ("rot3", "rot2"),
        ("rot3", "rot1"),
        ("rot2", "rot2"),
        ("rot2", "rot1"),
        ("rot1", "rot1"),
    )
    rows: int = 96

    softness: float = 0.05
    sharpness: float = 2.0
    epochs: int = 9
    epochs_of_others: int = 2
    learning_rate: float = 0.05
    slowing: float = 0.9
    averaged: int = 3
    epochs_end_to_end: int = 8
    learning_rate_end_to_end: float = 0.01
    accumulated: int = 4
    accepted: int = 25
    epochs_of_saliency: int = 2
    learning_rate_of_saliency: float = 0.005
    softness_of_saliency: float = 0.2
    ridge: float = 3e-3
    floor: float = 0.01

    fewest_experts: int = 2
    worth: float = 0.02
    least_gain: float = 0.02
    shown_keys: int = 1024

    bases_entries: int = 512
    bases_units: int = 64
    bases_steps: int = 600
    bases_batch: int = 256
    bases_rate: float = 3e-3
    bases_decay: float = 1e-2

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise ValueError(f"minutes must be more than 0, got {self.minutes}")
        if self.contexts is not None and self.contexts < 2:
            raise ValueError(f"at least 2 contexts are needed, not {self.contexts}")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        ratios, shares = self.ratios, self.keep_shares
        if not ratios or list(ratios) != sorted({*ratios}) or not 0 < ratios[0] <= ratios[-1] < 1:
            raise ValueError(f"ratios must ascend and lie between 0 and 1, got {ratios}")
        if list(shares) != sorted({*shares}, reverse=True) or shares[:1] != (1.0,) or shares[-1] <= 0:
            raise ValueError(f"keep_shares must descend from 1 and stay above 0, got {shares}")

    def held_out_for(self, count: int) -> int:
        """Return how many contexts decide what is kept, for so many to fit on."""
        return max(min(self.held_out, 2 + count // 2), count // 4)

    def contexts_for(self, seconds: float) -> int:
        """Return how many contexts to fit routers on, if measuring one takes so long."""
        in_time = int(min(self.most_contexts, max(self.fewest_contexts, self.collecting * 60 * self.minutes / seconds)))
        return self.contexts or in_time

    def changed_measurements(self) -> dict[str, object]:
        """Return what measurements depend on and is not as it is by default."""
        return {name: getattr(self, name) for name in MEASURED_BY if getattr(self, name) != getattr(Recipe, name)}


_COUNTS = (
    *("max_experts", "fewest_contexts", "most_contexts", "saliency_contexts", "held_out", "gradient_samples", "rows"),
    *("epochs", "epochs_of_others", "averaged", "epochs_end_to_end", "accumulated", "accepted", "epochs_of_saliency"),
    *("fewest_experts", "bases_entries", "bases_units", "bases_steps", "bases_batch"),
)
_LEAST = dict.fromkeys(_COUNTS, 1) | {"held_out_documents": 2}
