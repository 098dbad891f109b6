"""Every number used in a calibration, and its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pikvpress.routers import ROUTERS, Router, RouterSettings

MEASURED_BY = ("ratios", "gradient_samples")  # what measurement files depend on, in addition to their contexts


@dataclass(frozen=True)
class Recipe:
    """The numbers of a calibration.

    Comparisons mentioned below were made on held-out contexts of the shipped texts, with SmolLM2-135M-Instruct. Values
    without a source are round numbers that were not compared with others.

    Parameters
    ----------
    minutes : float, default=15
        Approximate duration, unless `contexts` sets the number of contexts.
    contexts : int, optional
        Number of contexts to fit routers on.
    length : int, default=1024
        Tokens per context.
    experts : tuple of str, optional
        Candidate experts. By default `pikvpress.experts.CANDIDATES`.
    max_experts : int, default=4
        Maximum number of experts in the gates. Each one costs time in every prefill.
    routers : tuple of str, optional
        Routers to fit, the first of them end to end. By default all, "pikv" first.
    objective : str or None, default=None
        Objective of the end-to-end stage, such as "kl". None skips the stage, which takes much of the time
        and has lowered the divergence by less than 1 %.
    seed : int, default=0
        Random seed.
    settings : RouterSettings
        Settings of routers during fitting. By default those of `MoERouterPress`.
    router_classes : mapping of str to type of Router, optional
        Class for each name in `routers`. By default `pikvpress.routers.ROUTERS`; others are used for comparisons.
    fewest_contexts, most_contexts : int, default=4, 64
        Bounds on the number of contexts derived from `minutes`. More than 64 contexts did not fit into the default
        time.
    collecting : float, default=0.02
        Share of the minutes for measuring the contexts to fit routers on, based on the duration of the steps of a
        calibration on two cores.
    saliency_contexts : int, default=8
        Number of contexts to fit the saliency expert on per context to fit routers on. They are different contexts, so
        that routers see the expert's behaviour on new text. The expert gains more from contexts than routers do.
    held_out_documents : int, default=4
        One of this many documents is held out.
    held_out : int, default=10
        Number of held-out contexts for validation: two of each kind of situation. Half as many were too few: the
        input-dependent part of the gates was kept where it should not have been. With few contexts to fit on, the
        number is 2 plus half of theirs; with many, a quarter of theirs.
    fewest_tokens : int, default=256
        Minimum number of tokens of a context.
    continued, quoted : int, default=64, 40
        Tokens of a continuation, and minimum number of tokens of a quotation.
    ratios : tuple of float, default=(0.5, 0.75, 0.875)
        Compression ratios that gates are fitted for, ascending.
    gradient_samples : int, default=2
        Number of labels per token for which gradients of predictions are computed.
    keep_shares : tuple of float
        Shares of the keys kept, descending from 1, at which error curves are measured.
    codec_pairs : tuple of (str, str)
        Codecs of keys and values whose error curves are measured, the largest first. Keys need at least as many bits as
        values.
    curve_contexts : int, default=15
        Maximum number of contexts on which these curves are measured. Refitting values for every pair and share takes
        15 to 50 s per context on two cores. As many give the scale of the saliency expert's losses.
    bank : int, default=64
        Number of queries of futures per head that are kept to refit values.
    rows : int, default=96
        Number of queries per head used for fitting: those with the largest gradients account for most of the loss.
    softness : float, default=0.05
        Width of the soft selection for gradients, in ranks.
    sharpness : float, default=2
        Exponent of the blend that fitting starts from: weights are inversely proportional to the square of an expert's
        cost.
    epochs : int, default=9
        Epochs of the first router, in each of its two stages, and of the blend for choosing experts.
    epochs_of_others : int, default=2
        Epochs of the other routers, which start from the parameters of the first one. If that one does not look at the
        input, they keep its parameters: their own fits then differed by less than 1 % of the predicted divergence.
    learning_rate : float, default=0.05
        Learning rate of routers in the layer-by-layer fits.
    slowing : float, default=0.9
        Share of the learning rate that is removed, linearly, by the end of a layer-by-layer fit.
    averaged : int, default=3
        The result of a fit is the mean over the last 1/averaged of its steps, because single contexts cause noise.
    epochs_end_to_end : int, default=8
        Epochs of the end-to-end stage. More epochs overfitted 24 contexts.
    learning_rate_end_to_end : float, default=0.01
        Learning rate of the end-to-end stage; five times this value diverged.
    accumulated : int, default=4
        Number of situations per step of the end-to-end stage.
    accepted : int, default=25
        A student's proposal is accepted if it is among this many of the teacher's best tokens: speculative knowledge
        distillation (https://arxiv.org/abs/2410.11325).
    epochs_of_saliency : int, default=2
        Epochs of the gradient fit of the saliency expert.
    learning_rate_of_saliency : float, default=0.001
        Learning rate, in standard deviations of a head's features. Five times this value was worse: Adam moves each of
        a head's many weights at every step.
    saliency_ratios : tuple of float
        Compression ratios at which the saliency expert is fitted and validated, ascending. Budgets in bytes or across
        heads leave some heads few tokens, and others nearly all.
    softness_of_saliency : float, default=0.2
        Width of its soft selection, in standard deviations of a head's scores.
    ridge : float, default=0.003
        Regularisation of the saliency regression, in variances of the features.
    floor : float, default=0.003
        Lower bound of the saliency, relative to a head's mean: keys below it are treated as equal.
    fewest_experts : int, default=2
        Minimum number of experts: a router with one expert has no choice.
    worth : float, default=0.02
        Minimum share of the blend, averaged over heads, for a third or further expert to be used.
    least_gain : float, default=0.05
        Minimum relative reduction of the divergence by looking at the input, which costs time in every prefill.
    worth_of_time : float, default=0.2
        Relative increase of the divergence that is accepted for saving the time of a prefill: at 0.2, a fifth of a
        percent for a percent. Layers compute only experts that are worth their time. 0: all of them. On held-out
        contexts, 0.2 took away between a third and two thirds of the time and cost less than 1 % in the mean over
        ratios, 0.5 up to 3 %.
        Since measured times vary, only 0 gives the same gates in every run.
    most_loss : float, default=0.03
        Relative increase of the divergence on held-out text up to which saving time is accepted.
    shown_keys : int, default=1024
        Context length for which the report shows fitted budgets; the shares hardly depend on it.
    bases_entries : int, default=512
        Number of entries per context from which the correction of calibrated bases is learned.
    bases_units, bases_steps, bases_batch : int, default=64, 600, 256
        Hidden units of the correction, number of training steps, and entries per step.
    bases_rate, bases_decay : float, default=0.003, 0.01
        Learning rate and weight decay of the correction.

    Raises
    ------
    ValueError
        For a value out of range; the message names the field and the allowed values.
    """

    minutes: float = 15.0
    contexts: int | None = None
    length: int = 1024
    experts: tuple[str, ...] | None = None
    max_experts: int = 4
    routers: tuple[str, ...] | None = None
    objective: str | None = None
    seed: int = 0
    settings: RouterSettings = field(default_factory=RouterSettings)
    router_classes: Mapping[str, type[Router]] = field(default_factory=lambda: ROUTERS)

    fewest_contexts: int = 4
    most_contexts: int = 64
    collecting: float = 0.02
    saliency_contexts: int = 8
    held_out_documents: int = 4
    held_out: int = 10
    fewest_tokens: int = 256
    continued: int = 64
    quoted: int = 40

    ratios: tuple[float, ...] = (0.5, 0.75, 0.875)
    gradient_samples: int = 2
    keep_shares: tuple[float, ...] = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125)
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
    curve_contexts: int = 15
    bank: int = 64
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
    learning_rate_of_saliency: float = 0.001
    saliency_ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 0.875, 0.9375, 0.96875)
    softness_of_saliency: float = 0.2
    ridge: float = 3e-3
    floor: float = 0.003

    fewest_experts: int = 2
    worth: float = 0.02
    least_gain: float = 0.05
    worth_of_time: float = 0.2
    most_loss: float = 0.03
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
            raise ValueError(f"at least 2 contexts are needed, got {self.contexts}")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.worth_of_time < 0:
            raise ValueError(f"worth_of_time must be at least 0, got {self.worth_of_time}")
        for name in ("ratios", "saliency_ratios"):
            ratios = getattr(self, name)
            if not ratios or list(ratios) != sorted({*ratios}) or not 0 < ratios[0] <= ratios[-1] < 1:
                raise ValueError(f"{name} must be ascending and between 0 and 1, got {ratios}")
        shares = self.keep_shares
        if list(shares) != sorted({*shares}, reverse=True) or shares[:1] != (1.0,) or shares[-1] <= 0:
            raise ValueError(f"keep_shares must be descending from 1 and above 0, got {shares}")

    def held_out_for(self, count: int) -> int:
        """Return the number of held-out contexts, given the number to fit on."""
        return max(min(self.held_out, 2 + count // 2), count // 4)

    def contexts_for(self, seconds: float) -> int:
        """Return the number of contexts to fit routers on, given the time to measure one."""
        in_time = int(min(self.most_contexts, max(self.fewest_contexts, self.collecting * 60 * self.minutes / seconds)))
        return self.contexts or in_time

    def changed_measurements(self) -> dict[str, object]:
        """Return the non-default values that measurements depend on."""
        return {name: getattr(self, name) for name in MEASURED_BY if getattr(self, name) != getattr(Recipe, name)}


_COUNTS = (
    *("max_experts", "fewest_contexts", "most_contexts", "saliency_contexts", "held_out", "gradient_samples"),
    *("curve_contexts", "bank"),
    *(
        "rows",
        "epochs",
        "epochs_of_others",
        "averaged",
        "epochs_end_to_end",
        "accumulated",
        "accepted",
        "epochs_of_saliency",
    ),
    *("fewest_experts", "bases_entries", "bases_units", "bases_steps", "bases_batch"),
)
_LEAST = dict.fromkeys(_COUNTS, 1) | {"held_out_documents": 2}
