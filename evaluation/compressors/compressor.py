"""The interface of strategies for running a press."""

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
    """A strategy for running a press on a context.

    Parameters
    ----------
    masks : bool, default=False
        Whether removed entries are only masked, so that their bytes are still held.

    Attributes
    ----------
    told : bool
        Whether it receives the sample, so that it compresses separately for each sample.
    goes_on : bool
        Whether it compresses while a continuation is read.
    """

    masks: bool = False
    told: ClassVar[bool] = False
    goes_on: ClassVar[bool] = False

    def validate(self, name: str, study: Study) -> None:  # noqa: B027 - most run in every study
        """Check that the press with a name can be run in a study; called before anything runs.

        Raises
        ------
        ValueError
            If it cannot; the message gives the reason and a solution.
        """

    @abstractmethod
    def compress(
        self, press: PressSpec, ratio: float | None, source: SourceContext, sample: Sample | None = None
    ) -> CompressedContext:
        """Return the context compressed by the press.

        Parameters
        ----------
        press : PressSpec
            Specification that creates the press.
        ratio : float, optional
            Share to remove, for presses that have a ratio.
        source : SourceContext
            The context, with results that are shared between presses and ratios.
        sample : Sample, optional
            The sample, if the press is `told`.
        """

    def while_answering(self, press: PressSpec, ratio: float | None) -> BasePress | None:
        """Return the press that continues to compress while an answer is generated; None if there is none."""
        return None
