"""The wrappers around a press, and which of them it does not support."""

from __future__ import annotations

import sys

from kvpress import BasePress, ComposedPress, DecodingPress, PrefillDecodingPress


def wrappers_of(press: BasePress) -> list[BasePress]:
    """Return the presses that are currently passing the model on to `press`, the innermost first.

    Wrappers forward `post_init_from_model`, but the press has no reference to them. They are therefore found on the
    call stack, as the objects whose methods are running.
    """
    found: list[BasePress] = []
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, BasePress) and caller is not press and caller not in found:
            found.append(caller)
        frame = frame.f_back  # type: ignore[assignment]
    return found


def is_decoding_press(press: BasePress, goes_on: bool) -> bool:
    """Return whether a press of ours is being applied as the decoding press of a PrefillDecodingPress.

    To be called from `post_init_from_model`.

    Parameters
    ----------
    press : BasePress
        The press.
    goes_on : bool
        Whether its `decoding` is set.

    Raises
    ------
    ValueError
        If it would do nothing there, or compresses the prompt as well.
    """
    wrappers = wrappers_of(press)
    if len(wrappers) != 1 or getattr(wrappers[0], "decoding_press", None) is not press:
        return False
    name = type(press).__name__
    if not goes_on:
        raise ValueError(
            f"{name} compresses prompts and would do nothing as a decoding press: set decoding=True, or use "
            f"DecodingPress(base_press=MoERouterPress(...))"
        )
    if getattr(wrappers[0], "prefilling_press", None) is press:
        raise ValueError(
            f"{name} with decoding={getattr(press, 'decoding', None)!r} compresses a prompt and what follows, each "
            "once: use it without PrefillDecodingPress"
        )
    return True


def refuse_wrappers(press: BasePress, what: str, way_out: str, leaves_rows: bool) -> None:
    """Raise a ``ValueError`` if a press that decides more than scores is wrapped in one that compresses after it.

    To be called from `post_init_from_model`, so that the error is raised before the model runs: some wrappers use their
    press only in the middle of generation. Wrappers that request scores are rejected when they do so.

    Parameters
    ----------
    press : BasePress
        A press that acts in its `forward_hook`.
    what : str
        What is rejected; the start of the message.
    way_out : str
        A solution; the end of the message.
    leaves_rows : bool
        Whether it leaves the same number of entries in all heads, so that another press can compress them again.
    """
    inner = press
    for outer in wrappers_of(press):
        reason = _reason(outer, inner, leaves_rows)
        if reason:
            raise ValueError(f"{what} cannot be used in {type(outer).__name__}, which {reason}: {way_out}")
        inner = outer


def _reason(outer: BasePress, inner: BasePress, leaves_rows: bool) -> str:
    if isinstance(outer, DecodingPress):
        return "repeatedly compresses to one size during decoding"
    if isinstance(outer, PrefillDecodingPress):
        return "" if leaves_rows or outer.decoding_press is None else "compresses entries again during decoding"
    if isinstance(outer, ComposedPress):
        return "" if leaves_rows or outer.presses[-1] is inner else "lets another press select from the kept entries"
    return ""
