"""An entry of the press registry."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

from kvpress import BasePress

from evaluation.compressors import Compressor, SharedPrefill


@dataclass(frozen=True)
class RatioUnit:
    """The unit of which a ratio is a share.

    Parameters
    ----------
    name : str
        Name in tables.
    attribute : str
        Attribute of the press that the ratio sets.
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
    """A press that is available by name.

    Parameters
    ----------
    make : callable
        Returns a new press. A keyword-only argument without a default is a required setting, given as
        ``name@option=value``.
    strategy : Compressor, optional
        How it is run. By default after attention, on a prefill shared with other presses.
    ratio_of : RatioUnit, optional
        Unit of its ratio, by default tokens; None for a press that uses a threshold or a size instead.
    """

    make: Callable[..., BasePress | None]
    strategy: Compressor = field(default_factory=SharedPrefill)
    ratio_of: RatioUnit | None = TOKENS

    @property
    def required(self) -> tuple[str, ...]:
        """The required settings."""
        arguments = inspect.signature(self.make).parameters.values()
        return tuple(
            argument.name
            for argument in arguments
            if argument.kind is argument.KEYWORD_ONLY and argument.default is argument.empty
        )
