"""The passes: the cache that the suite is run with, and whether our presses are added."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pass:
    """One run of the suite.

    Parameters
    ----------
    name : str
        Name on the command line and in the report.
    cache, presses : bool
        Whether a PiKVCache replaces every DynamicCache, and whether our presses are added.
    against : str, optional
        The pass whose numbers the models must reproduce.
    what : str
        Description.
    """

    name: str
    cache: bool
    presses: bool
    against: str | None
    what: str


PASSES = {
    each.name: each
    for each in (
        Pass("plain", False, False, None, "kvpress alone: pikvpress is not even imported"),
        Pass("cache", True, False, "plain", "a PiKVCache wherever a DynamicCache is made"),
        Pass("presses", False, True, "plain", "our presses among those that the suite tests"),
        Pass("both", True, True, "presses", "our presses, and a PiKVCache wherever a DynamicCache is made"),
    )
}
