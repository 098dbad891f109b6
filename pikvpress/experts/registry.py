"""The experts by name: kvpress's scorers and our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kvpress import CURPress, KnormPress, ScorerPress, StreamingLLMPress

from pikvpress.experts.chunk_scores import ChunkScorePress
from pikvpress.experts.compactor import StreamedCompactorPress
from pikvpress.experts.expected_attention import StreamedExpectedAttentionPress
from pikvpress.experts.expert import Expert
from pikvpress.experts.key_diff import StreamedKeyDiffPress
from pikvpress.experts.lag_kv import StreamedLagKVPress
from pikvpress.experts.non_causal import StreamedNonCausalAttnPress
from pikvpress.experts.observed_attention import WindowedObservedAttentionPress
from pikvpress.experts.probe_attention import ProbeAttentionPress
from pikvpress.experts.saliency import NAME as SALIENCY
from pikvpress.experts.saliency import SaliencyScorer
from pikvpress.experts.snapkv import StreamedSnapKVPress
from pikvpress.experts.tova import StreamedTOVAPress
from pikvpress.support.registry import Registry


@dataclass(frozen=True)
class _Registered:
    build: Callable[[], ScorerPress]
    needs: dict[str, Any]


_REGISTRY: Registry[_Registered] = Registry("expert")


def register_expert(name: str, build: Callable[[], ScorerPress], **needs: Any) -> None:
    """Register an expert by name.

    Parameters
    ----------
    name : str
        A name that is not in use yet.
    build : callable
        Returns a new press; called once per router press, so that no state is shared.
    **needs
        Requirements of the expert and its prior weight: `min_tokens`, `reads_hidden_states`, `aligned`, `positional`,
        `random`, `prior`, as in `Expert`.

    Raises
    ------
    ValueError
        If the name is already in use.

    Examples
    --------
    >>> from kvpress import KnormPress
    >>> register_expert("my_norm", KnormPress)
    >>> MoERouterPress(0.5, experts=["my_norm", "keydiff"])
    """
    _REGISTRY.register(name, _Registered(build, needs))


# In the order in which `num_experts` takes them, the defaults first. The defaults and their prior weights were chosen
# on contexts of the calibration texts with SmolLM2-135M-Instruct.
register_expert(
    "compactor",
    StreamedCompactorPress,
    min_tokens=16,
    reads_hidden_states=True,
    aligned=True,
    positional=True,
    random=True,
)
register_expert("expected_attention", StreamedExpectedAttentionPress, min_tokens=6, reads_hidden_states=True)
register_expert("snapkv", StreamedSnapKVPress, min_tokens=65, reads_hidden_states=True, positional=True)
register_expert("probe_attention", ProbeAttentionPress, reads_hidden_states=True, prior=2.0)
register_expert("keydiff", StreamedKeyDiffPress)
register_expert("lagkv", StreamedLagKVPress, min_tokens=5, positional=True)
register_expert("observed_attention", WindowedObservedAttentionPress, reads_hidden_states=True, positional=True)
register_expert("chunkkv", ChunkScorePress, min_tokens=65, reads_hidden_states=True, positional=True)
register_expert(
    "non_causal",
    StreamedNonCausalAttnPress,
    min_tokens=2,
    reads_hidden_states=True,
    aligned=True,
    positional=True,
)
register_expert("tova", StreamedTOVAPress, min_tokens=2, reads_hidden_states=True, positional=True)
register_expert("knorm", KnormPress)
register_expert("cur", CURPress, min_tokens=5, positional=True)
register_expert("streaming_llm", StreamingLLMPress, min_tokens=5, positional=True)

# Fitted by calibration and stored in gates; not available without them.
register_expert(SALIENCY, SaliencyScorer, positional=True)

DEFAULT_EXPERTS = ("compactor", "expected_attention", "snapkv", "probe_attention", "keydiff", "lagkv")
CANDIDATES = (SALIENCY, *DEFAULT_EXPERTS)  # candidates of a calibration


def available_experts() -> tuple[str, ...]:
    """Return the names of all experts that need no calibration, in the order in which `num_experts` takes them."""
    return tuple(name for name in _REGISTRY if name != SALIENCY)


def make_experts(experts: Sequence[str | ScorerPress] | None, num_experts: int | None) -> tuple[Expert, ...]:
    """Build experts from names and presses.

    Parameters
    ----------
    experts : sequence of str or ScorerPress, optional
        Names of registered experts, or your own presses. By default `DEFAULT_EXPERTS`, or the first `num_experts` of
        the registry.
    num_experts : int, optional
        Number of experts to take, from the first on.

    Raises
    ------
    ValueError
        For an unknown name (the message suggests similar ones), a repeated name, no experts, or more experts than there
        are.
    TypeError
        For an expert that is neither a name nor a `ScorerPress`.
    """
    if isinstance(experts, (str, ScorerPress)):
        raise TypeError(
            f"experts must be a sequence of names or presses, not a single one: write experts=[{experts!r}]"
        )
    if num_experts is not None and (isinstance(num_experts, bool) or not isinstance(num_experts, int)):
        raise TypeError(f"num_experts must be an integer, got {num_experts!r}")
    if experts is not None:
        given: Sequence[str | ScorerPress] = list(experts)
    else:
        given = DEFAULT_EXPERTS if num_experts is None else available_experts()
    count = len(given) if num_experts is None else num_experts
    if count < 1:
        raise ValueError("a router needs at least one expert, for example experts=['keydiff', 'compactor']")
    if count > len(given):
        raise ValueError(
            f"num_experts={count}, but only {len(given)} experts are {'given' if experts is not None else 'known'}: "
            f"lower num_experts, or give more of {', '.join(available_experts())}"
        )
    made: list[Expert] = []
    for expert in given[:count]:
        made.append(_make(expert, {other.name for other in made}))
    return tuple(made)


def _make(expert: str | ScorerPress, taken: set[str]) -> Expert:
    if isinstance(expert, str):
        entry = _REGISTRY[expert]
        if expert in taken:
            raise ValueError(f"expert {expert!r} is named twice; name each expert once")
        return Expert(expert, entry.build(), **entry.needs)
    if isinstance(expert, ScorerPress):
        name = type(expert).__name__
        number = 2
        while name in taken:
            name, number = f"{type(expert).__name__}_{number}", number + 1
        known = next((entry.needs for entry in _REGISTRY.values() if _makes(entry.build, type(expert))), {})
        return Expert(name, expert, **known)
    raise TypeError(f"an expert is a name or a kvpress ScorerPress, got {type(expert).__name__}: {expert!r}")


def _makes(build: Callable[[], ScorerPress], kind: type[ScorerPress]) -> bool:
    """Return whether a registered expert has this class or a base class of it, or is our version of kvpress's class."""
    return isinstance(build, type) and (
        issubclass(kind, build) or (kind is not ScorerPress and kind in build.__bases__)
    )
