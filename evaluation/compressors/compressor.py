"""What every way of running a press provides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kvpress import BasePress

from evaluation.compressed import CompressedContext

if TYPE_CHECKING:
    from evaluation.compressors.source_context import SourceContext
    from evaluation.presses.spec import PressSpec
    from evaluation.study import Study
    from evaluation.units import Sample


@dataclass(frozen=True)
class Compressor(ABC):
    """A way of running a press on a context.

    Parameters
    ----------
    masks : bool, default=False
        Whether what the press removes is masked only, its bytes still held.

    Attributes
    ----------
    told : bool
        Whether it is told the sample, so that it compresses anew for each.
    """

    masks: bool = False
    told: ClassVar[bool] = False

    def validate(self, name: str, study: Study) -> None:  # noqa: B027 - most run in every study
        """Do nothing if the press of a name can be run in a study; it is called before anything runs.

        Raises
        ------
        ValueError
            If it cannot; the message says why, and what to do.
        """

    @abstractmethod
    def compress(
        self, press: PressSpec, ratio: float | None, source: SourceContext, sample: Sample | None = None
    ) -> CompressedContext:
        """Return the context as the press leaves it.

        Parameters
        ----------
        press : PressSpec
            Makes the press.
        ratio : float, optional
            Share to remove, for presses that have a ratio.
        source : SourceContext
            The context, and what is kept of it from one press and ratio to the next.
        sample : Sample, optional
            What the context is read for, if the press is `told`.
        """

    def while_answering(self, press: PressSpec, ratio: float | None) -> BasePress | None:
        """Return the press that goes on compressing while an answer is written; None if there is none."""
        return None
