"""Which presses a press is wrapped in, and which of them it cannot serve."""

from __future__ import annotations

import sys

from kvpress import BasePress, ComposedPress, DecodingPress, PrefillDecodingPress


def wrappers_of(press: BasePress) -> list[BasePress]:
    """Return the presses that are telling `press` of the model right now, the innermost first.

    Wrappers hand `post_init_from_model` on, and hold the press without its knowing. So who wraps it shows only in who
    calls: the objects whose methods are running.
    """
    found: list[BasePress] = []
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, BasePress) and caller is not press and caller not in found:
            found.append(caller)
        frame = frame.f_back  # type: ignore[assignment]
    return found


def refuse_wrappers(press: BasePress, what: str, way_out: str, leaves_rows: bool) -> None:
    """Raise a ``ValueError`` if a press that decides more than scores is wrapped in one that compresses after it.

    To be called from `post_init_from_model`, so that it is told before the model runs: some wrappers come to their
    press only in the middle of generation. Those that ask for scores are refused where they ask.

    Parameters
    ----------
    press : BasePress
        Acts in its `forward_hook`.
    what : str
        What is refused, as the message begins.
    way_out : str
        As the message ends.
    leaves_rows : bool
        Whether what it leaves are shorter rows of all heads, which another press can shorten again.
    """
    inner = press
    for outer in wrappers_of(press):
        reason = _reason(outer, inner, leaves_rows)
        if reason:
            raise ValueError(f"{what} cannot be used in {type(outer).__name__}, which {reason}: {way_out}")
        inner = outer


def _reason(outer: BasePress, inner: BasePress, leaves_rows: bool) -> str:
    if isinstance(outer, DecodingPress):
        return "compresses again and again while decoding, to one size"
    if isinstance(outer, PrefillDecodingPress):
        return "" if leaves_rows or outer.decoding_press is None else "compresses what is left again while decoding"
    if isinstance(outer, ComposedPress):
        return "" if leaves_rows or outer.presses[-1] is inner else "lets another press choose among what is left"
    return ""
