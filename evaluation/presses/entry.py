"""What is known of a press that can be named."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

from kvpress import BasePress

from evaluation.compressors import Compressor, SharedPrefill


@dataclass(frozen=True)
class RatioUnit:
    """What a ratio is a share of.

    Parameters
    ----------
    name : str
        As in tables.
    attribute : str
        Of the press, which the ratio sets.
    """

    name: str
    attribute: str = "compression_ratio"


TOKENS = RatioUnit("tokens")
BYTES = RatioUnit("bytes")
LATER_TOKENS = RatioUnit("later layers' tokens")
HEADS = RatioUnit("heads", "head_compression_ratio")
KEY_CHANNELS = RatioUnit("key channels", "key_channel_compression_ratio")


@dataclass(frozen=True)
class Entry:
    """A press that can be named.

    Parameters
    ----------
    make : callable
        Returns a new press. A keyword-only argument without a default is a setting that must be given, as
        ``name@option=value``.
    strategy : Compressor, optional
        How it is run. By default after attention, from a prefill that it shares with others.
    ratio_of : RatioUnit, optional
        What its ratio is a share of, by default tokens; None for a press that works by a threshold or a size instead.
    """

    make: Callable[..., BasePress | None]
    strategy: Compressor = field(default_factory=SharedPrefill)
    ratio_of: RatioUnit | None = TOKENS

    @property
    def required(self) -> tuple[str, ...]:
        """The settings that must be given."""
        arguments = inspect.signature(self.make).parameters.values()
        return tuple(
            argument.name
            for argument in arguments
            if argument.kind is argument.KEYWORD_ONLY and argument.default is argument.empty
        )
