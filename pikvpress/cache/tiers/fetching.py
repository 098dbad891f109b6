"""Fetching a layer's bytes while another layer computes: on a thread, and on a GPU on a stream of its own."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from pikvpress.cache.entries import Entries
from pikvpress.cache.tiers.away import Away


class Fetcher:
    """One thread that fetches layers for all caches of the process."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start the thread anew when it is next needed: a forked process does not have its parent's."""
        self._thread: ThreadPoolExecutor | None = None
        self._streams: dict[torch.device, Any] = {}

    def start(self, away: Away, device: torch.device) -> Future[tuple[Entries, Any]]:
        """Begin to fetch entries to a device; `finish` returns them."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "pikvpress-tiers")
        if device.type != "cuda":
            return self._thread.submit(_read, away, device)
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        computed = torch.cuda.current_stream(device).record_event()  # the latest entries have been computed by then
        return self._thread.submit(_copied, away, device, self._streams[device], computed)

    def finish(self, coming: Future[tuple[Entries, Any]]) -> Entries:
        """Return the entries, which later work on the device's current stream may read.

        Raises
        ------
        Exception
            What went wrong while they were fetched.
        """
        entries, copied = coming.result()
        if copied is not None:
            stream = torch.cuda.current_stream(entries.tail.keys.device)
            stream.wait_event(copied)
            for tensor in entries.tensors():
                tensor.record_stream(stream)  # its memory is of the other stream
        return entries


def _read(away: Away, device: torch.device) -> tuple[Entries, None]:
    if away.read_ahead is not None:
        away.read_ahead()
    return away.on(device), None


def _copied(away: Away, device: torch.device, stream: Any, computed: Any) -> tuple[Entries, Any]:
    with torch.cuda.device(device), torch.cuda.stream(stream):
        stream.wait_event(computed)
        return away.on(device), stream.record_event()


FETCHER = Fetcher()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=FETCHER.forget)
