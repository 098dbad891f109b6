"""Presses that need a package which pikvpress does not depend on."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from evaluation.compressors.shared_prefill import SharedPrefill

if TYPE_CHECKING:
    from evaluation.study import Study


@dataclass(frozen=True)
class WithPackage(SharedPrefill):
    """The press acts after attention, and uses a package that may not be installed.

    Parameters
    ----------
    package : str
        Name by which pip installs it.
    """

    package: str = ""

    def validate(self, name: str, study: Study) -> None:
        """Reject the study if the package is not installed."""
        try:
            version(self.package)
        except PackageNotFoundError:
            raise ValueError(
                f"{name} needs the package {self.package}: run `pip install {self.package}`, or omit it"
            ) from None
